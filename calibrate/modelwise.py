"""Model-wise calibration of open ratios: the whole student at once, as the paper does.

Every block output of the student is compared with the teacher's on the teacher's trajectory; ratios
are trained until all are decided. Source: VQ4DiT (arXiv 2408.17131) eq. 8-10; the published code's
habits where the recipe asks for them (mean over blocks, codebooks trained once a layer is decided).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .dit import DiT
from .job import Job
from .layer import VQLinear
from .ratio_training import RatioTrainer, SoftStep, curve_from_steps, steps_from_curve
from .training_state import load_optimizer_tensors, optimizer_tensors
from .trajectory import Trajectories, draw_batch


class ModelCalibration:
    """Training of the whole student's open ratios; can be stored between any two steps.

    `steps` are those done so far.
    """

    def __init__(self, teacher: DiT, student: DiT, trajectories: Trajectories, job: Job) -> None:
        """Prepare the student, whose blocks have `VQLinear`s, for learning from the teacher."""
        self._teacher, self._student = teacher, student
        self._trajectories, self._job = trajectories, job
        self._layers = {n: m for n, m in student.named_modules() if isinstance(m, VQLinear)}
        self._trainer = RatioTrainer(list(self._layers.values()), job.recipe)
        self.steps: list[SoftStep] = []

    def run(self) -> Iterator[SoftStep]:
        """Do the remaining steps; the student is hard afterwards."""
        while len(self.steps) < self._job.recipe.soft_steps:
            self.steps.append(self._trainer.step(self._distance()))
            yield self.steps[-1]
        for layer in self._layers.values():
            layer.harden()

    def _distance(self) -> Tensor:
        """L_d on points that depend on seed and step number alone, mean over blocks (eq. 8)."""
        job = self._job
        batch = draw_batch(
            self._trajectories,
            job.recipe.batch_size,
            null_label=self._teacher.config.null_label,
            null_share=job.recipe.null_share,
            seed=job.seed + len(self.steps),
        ).to(job.compute.device)
        with job.compute.forward():
            with torch.no_grad():
                targets = block_outputs(self._teacher, batch.latent, batch.timestep, batch.label)
            outputs = block_outputs(self._student, batch.latent, batch.timestep, batch.label)
        distances = [
            (y - target).square().mean() for y, target in zip(outputs, targets, strict=True)
        ]
        return torch.stack(distances).mean()

    def state(self) -> dict[str, Tensor]:
        """The curve and the optimizer's tensors; the layers are stored by the caller."""
        return {
            "curve": curve_from_steps(self.steps),
            **optimizer_tensors(self._trainer.optimizer, self._parameters()),
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a stored state, with the layers that were stored beside it."""
        self.steps = steps_from_curve(tensors["curve"])
        load_optimizer_tensors(self._trainer.optimizer, self._parameters(), tensors)

    def _parameters(self) -> dict[str, Tensor]:
        """What is still trained, by name."""
        return {
            f"{name}.{part}": value
            for name, layer in self._layers.items()
            for part, value in layer.named_parameters()
        }


def block_outputs(model: DiT, latent: Tensor, timestep: Tensor, label: Tensor) -> list[Tensor]:
    """Output of every block, each (N, T, D)."""
    x, c = model.embed(latent, timestep, label)
    outputs = []
    for block in model.blocks:
        x = block(x, c)
        outputs.append(x)
    return outputs
