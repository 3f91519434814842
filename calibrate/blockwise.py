"""Block-wise calibration of open ratios: one block at a time, against the teacher's block.

Each block gets the inputs that the quantized blocks before it produce and learns to give what the
teacher's blocks give, so that errors are corrected and not passed on. Only one block's weights and
optimizer state are in memory. Source: VQ4DiT (arXiv 2408.17131) section 3, L = L_d + L_r (eq. 8 to
10), taken block by block; progressive freezing as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import block_linears, load_block, replace_linear, watch_inputs
from .checkpoint import Checkpoint
from .dit import DiTBlock
from .layer import VQLinear
from .ratio_training import RatioTrainer, SoftStep
from .recipe import Recipe
from .start import LayerSpec, start_layer

#: Points whose activations are computed at once.
_CHUNK = 64


@dataclass(kw_only=True)
class Streams:
    """Calibration points between two blocks, (P, T, D), and their condition (P, D).

    `teacher` are the full-precision activations, `student` those behind the quantized blocks;
    `condition_moment` (D, D) are the second moments of every adaLN linear's input.
    """

    teacher: Tensor
    student: Tensor
    condition: Tensor
    condition_moment: Tensor


def calibrate_block(
    source: Checkpoint,
    index: int,
    specs: dict[str, LayerSpec],
    streams: Streams | None,
    recipe: Recipe,
    seed: int,
    report: Callable[[SoftStep], None] = lambda step: None,
) -> dict[str, VQLinear]:
    """Quantize one block and advance both streams past it.

    Args:
        source: full-precision checkpoint.
        index: which block.
        specs: how to quantize each of its linears, by full name, in order of execution.
        streams: activations in front of it, changed to those behind it; None if the recipe needs
            no inputs.
        recipe: settings; its soft stage runs here if its scope is "block".
        seed: of K-Means and of the order of points.
        report: called after each soft step.
    Returns:
        Layers by their full name; hard, unless the recipe opens ratios model-wise.
    """
    block = load_block(source, index)
    targets, moments = None, {}
    if streams is not None:
        targets, moments = _observe(block, streams)
    layers = {}
    for number, (full_name, spec) in enumerate(specs.items()):
        name = full_name.removeprefix(f"blocks.{index}.")
        linear = block_linears(block)[name]
        layer_seed = seed + 1000 * index + 10 * number
        layers[full_name] = start_layer(linear, spec, recipe, moments.get(name), layer_seed)
        replace_linear(block, name, layers[full_name])
    if streams is not None and targets is not None:
        if recipe.scope == "block":
            for step in soft_steps(block, streams, targets, recipe, seed + index):
                report(step)
        streams.teacher = targets
        streams.student = run_block(block, streams.student, streams.condition)
    return layers


def _observe(block: DiTBlock, streams: Streams) -> tuple[Tensor, dict[str, Tensor]]:
    """The teacher's block output, and second moments of the linears' inputs in the student."""
    targets = run_block(block, streams.teacher, streams.condition)
    with watch_inputs(block) as watched:
        run_block(block, streams.student, streams.condition)
    moments = {name: moment.mean() for name, moment in watched.items()}
    moments["adaLN_modulation.1"] = streams.condition_moment
    return targets, moments


def vq_linears(block: DiTBlock) -> dict[str, VQLinear]:
    """The block's quantized linears by name."""
    return {n: layer for n, layer in block_linears(block).items() if isinstance(layer, VQLinear)}


def skip_block(
    source: Checkpoint, index: int, layers: dict[str, VQLinear], streams: Streams
) -> None:
    """Advance the streams past a block that is already calibrated."""
    block = load_block(source, index)
    teacher = run_block(block, streams.teacher, streams.condition)
    for full_name, layer in layers.items():
        replace_linear(block, full_name.removeprefix(f"blocks.{index}."), layer)
    streams.teacher = teacher
    streams.student = run_block(block, streams.student, streams.condition)


def soft_steps(
    block: DiTBlock, streams: Streams, targets: Tensor, recipe: Recipe, seed: int
) -> Iterator[SoftStep]:
    """Train ratios (and codebooks, biases) until all are decided; the block is hard afterwards."""
    layers = list(vq_linears(block).values())
    generator = torch.Generator().manual_seed(seed)
    update = (targets - streams.student).square().mean().clamp(min=1e-12)
    if any(layer.is_soft for layer in layers):
        trainer = RatioTrainer(layers, recipe)
        for _ in range(recipe.soft_steps):
            chosen = torch.randint(len(targets), (recipe.batch_size,), generator=generator)
            output = block(streams.student[chosen], streams.condition[chosen])
            yield trainer.step((output - targets[chosen]).square().mean() / update)
    for layer in layers:
        layer.harden()


@torch.no_grad()
def run_block(block: DiTBlock, tokens: Tensor, condition: Tensor) -> Tensor:
    """Run all points through a block in chunks."""
    parts = zip(tokens.split(_CHUNK), condition.split(_CHUNK), strict=True)
    return torch.cat([block(x, c) for x, c in parts])
