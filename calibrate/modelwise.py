"""Model-wise calibration of open ratios: the whole student at once, as the paper does.

Every block output of the student is compared with the teacher's on the teacher's trajectory; ratios
are trained until all are decided. Source: VQ4DiT (arXiv 2408.17131) eq. 8-10; the published code's
habits where the recipe asks for them (mean over blocks, codebooks trained once a layer is decided).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .dit import DiT
from .layer import VQLinear
from .ratio_training import RatioTrainer, SoftStep
from .recipe import Recipe
from .trajectory import Trajectories, draw_batch


def calibrate_model(
    teacher: DiT, student: DiT, trajectories: Trajectories, recipe: Recipe, seed: int
) -> Iterator[SoftStep]:
    """Train the student's open ratios until `recipe.soft_steps` are done; it is hard afterwards.

    Args:
        teacher: full precision.
        student: the same model with `VQLinear`s in its blocks.
        trajectories: where the teacher has been; each step draws `recipe.batch_size` points.
        recipe: settings.
        seed: of the draws.
    Yields:
        What each step reports.
    """
    layers = [module for module in student.modules() if isinstance(module, VQLinear)]
    trainer = RatioTrainer(layers, recipe)
    for step in range(recipe.soft_steps):
        batch = draw_batch(
            trajectories,
            recipe.batch_size,
            null_label=teacher.config.null_label,
            null_share=recipe.null_share,
            seed=seed + step,
        )
        with torch.no_grad():
            targets = block_outputs(teacher, batch.latent, batch.timestep, batch.label)
        outputs = block_outputs(student, batch.latent, batch.timestep, batch.label)
        distances = [
            (y - target).square().mean() for y, target in zip(outputs, targets, strict=True)
        ]
        yield trainer.step(torch.stack(distances).mean())
    for layer in layers:
        layer.harden()


def block_outputs(model: DiT, latent: Tensor, timestep: Tensor, label: Tensor) -> list[Tensor]:
    """Output of every block, each (N, T, D)."""
    x, c = model.embed(latent, timestep, label)
    outputs = []
    for block in model.blocks:
        x = block(x, c)
        outputs.append(x)
    return outputs
