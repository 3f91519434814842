"""Block-wise calibration of open ratios: one block at a time, against the teacher's block.

A block gets its inputs from the student's stream and learns to give what the teacher's block gives.
Where that stream comes out of the quantized blocks before it, errors are corrected and not passed
on, and blocks depend on each other; where it is the teacher's own, they do not. Only one block's
weights and optimizer state are in memory. Source: VQ4DiT (arXiv 2408.17131) section 3, L = L_d +
L_r (eq. 8 to 10), taken block by block; progressive freezing as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import block_linears, dense_linear, load_block, replace_linear, watch_inputs
from .compute import Compute
from .dit import DiTBlock
from .executor import Executor, InProcess, Report
from .job import Job
from .layer import VQLinear
from .ratio_training import RatioTrainer, SoftStep
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

    def to(self, device: str) -> Streams:
        """The same on a device."""
        return Streams(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class LayerTask:
    """Start of one linear, by its full name; `moment` of its inputs is on the CPU."""

    job: Job
    name: str
    spec: LayerSpec
    moment: Tensor | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class BlockTask:
    """Calibration of a block whose inputs, on the CPU, do not come from other quantized blocks."""

    job: Job
    name: str
    index: int
    specs: dict[str, LayerSpec]
    streams: Streams | None


def calibrate_block(
    job: Job,
    index: int,
    specs: dict[str, LayerSpec],
    streams: Streams | None,
    executor: Executor,
    report: Callable[[SoftStep], None] = lambda step: None,
) -> dict[str, VQLinear]:
    """Quantize one block and advance both streams past it.

    Args:
        job: model and recipe; the recipe's soft stage runs here if its scope is "block".
        index: which block.
        specs: how to quantize each of its linears, by full name, in order of execution.
        streams: activations in front of it, changed to those behind it; None if the recipe needs
            no inputs.
        executor: starts the linears; each one's start needs nothing of the others.
        report: called after each soft step.
    Returns:
        Layers by their full name; hard, unless the recipe opens ratios model-wise.
    """
    recipe, compute, seed = job.recipe, job.compute, job.seed + 1000 * index
    block = load_block(job.source, index, compute.device)
    targets, moments = None, {}
    if streams is not None:
        targets, moments = _observe(block, streams, compute)
    tasks = (
        LayerTask(job=job, name=name, spec=spec, moment=_moment(moments, name), seed=seed + 10 * n)
        for n, (name, spec) in enumerate(specs.items())
    )
    started = {}
    for name, layer in executor.run(start_task, tasks):
        started[name] = layer.to(compute.device)
        replace_linear(block, name.split(".", 2)[-1], started[name])
    if streams is not None and targets is not None:
        if recipe.scope == "block":
            for step in soft_steps(block, streams, targets, job, index):
                report(step)
        streams.teacher = targets
        streams.student = run_block(block, streams.student, streams.condition, compute)
    return {name: started[name] for name in specs}


def start_task(task: LayerTask, report: Report) -> VQLinear:
    """Start one linear; the layer is on the CPU."""
    job, device = task.job, task.job.compute.device
    moment = None if task.moment is None else task.moment.to(device)
    with job.compute.session():
        linear = dense_linear(job.source, task.name, device)
        return start_layer(linear, task.spec, job.recipe, moment, task.seed).cpu()


def block_task(task: BlockTask, report: Report) -> dict[str, VQLinear]:
    """Calibrate one block on its own, reporting each `SoftStep`; layers on the CPU."""
    job = task.job
    streams = None if task.streams is None else task.streams.to(job.compute.device)
    with job.compute.session():
        layers = calibrate_block(job, task.index, task.specs, streams, InProcess(), report)
    return {name: layer.cpu() for name, layer in layers.items()}


def _moment(moments: dict[str, Tensor], name: str) -> Tensor | None:
    """Second moments of a linear's inputs by its full name."""
    moment = moments.get(name.split(".", 2)[-1])
    return None if moment is None else moment.cpu()


def _observe(
    block: DiTBlock, streams: Streams, compute: Compute
) -> tuple[Tensor, dict[str, Tensor]]:
    """The teacher's block output, and second moments of the linears' inputs in the student."""
    targets = run_block(block, streams.teacher, streams.condition, compute)
    with watch_inputs(block) as watched:
        run_block(block, streams.student, streams.condition, compute)
    moments = {name: moment.mean() for name, moment in watched.items()}
    moments["adaLN_modulation.1"] = streams.condition_moment
    return targets, moments


def vq_linears(block: DiTBlock) -> dict[str, VQLinear]:
    """The block's quantized linears by name."""
    return {n: layer for n, layer in block_linears(block).items() if isinstance(layer, VQLinear)}


def skip_block(job: Job, index: int, layers: dict[str, VQLinear], streams: Streams) -> None:
    """Advance the streams past a block that is already calibrated."""
    compute = job.compute
    block = load_block(job.source, index, compute.device)
    teacher = run_block(block, streams.teacher, streams.condition, compute)
    for full_name, layer in layers.items():
        replace_linear(block, full_name.removeprefix(f"blocks.{index}."), layer)
    streams.teacher = teacher
    streams.student = run_block(block, streams.student, streams.condition, compute)


def soft_steps(
    block: DiTBlock, streams: Streams, targets: Tensor, job: Job, index: int
) -> Iterator[SoftStep]:
    """Train ratios (and codebooks, biases) until all are decided; the block is hard afterwards."""
    recipe, layers = job.recipe, list(vq_linears(block).values())
    generator = torch.Generator().manual_seed(job.seed + index)
    update = (targets - streams.student).square().mean().clamp(min=1e-12)
    if any(layer.is_soft for layer in layers):
        trainer = RatioTrainer(layers, recipe)
        for _ in range(recipe.soft_steps):
            chosen = torch.randint(len(targets), (recipe.batch_size,), generator=generator)
            chosen = chosen.to(targets.device)
            with job.compute.forward():
                output = block(streams.student[chosen], streams.condition[chosen])
            yield trainer.step((output - targets[chosen]).square().mean() / update)
    for layer in layers:
        layer.harden()


@torch.no_grad()
def run_block(block: DiTBlock, tokens: Tensor, condition: Tensor, compute: Compute) -> Tensor:
    """Run all points through a block in chunks; float32."""
    parts = zip(tokens.split(_CHUNK), condition.split(_CHUNK), strict=True)
    with compute.forward():
        return torch.cat([block(x, c) for x, c in parts]).float()
