"""How much the model's output suffers when one linear alone is quantized to so many bits.

Each linear is quantized by a quick start (few K-Means iterations, assignments as the recipe starts
them, no training) and the rest of the model stays as it is; the relative squared error of the
output is taken on points of the teacher's trajectories. Blocks stay in the file: all quantized
variants of a block go through the blocks behind it together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .blocks import block_linears, load_block, replace_linear, watch_inputs
from .blockwise import run_block
from .compute import Compute
from .dit import DiTBlock
from .executor import Executor, Report
from .job import Job
from .losses import relative_error
from .progress import Progress
from .recipe import Recipe
from .start import layer_spec, start_layer
from .streamed import StreamedDiT, outer_model
from .trajectory import Trajectories, condition_moment, draw_batch
from .workspace import Workspace

#: Tokens of the points that the output error is taken on, at most; at least a few points.
_PROBE_TOKENS = 512
_MIN_PROBE_POINTS = 4

_QUICK_ITERATIONS = 4
_QUICK_SAMPLE = 16384


@dataclass(kw_only=True)
class _Points:
    """Points in front of a block of the teacher.

    `tokens` (P, T, D), `condition` (P, D); the model's `output` (Q, C, H, W) for the first Q;
    `condition_moment` (D, D) of every adaLN linear's input.
    """

    tokens: Tensor
    condition: Tensor
    output: Tensor
    condition_moment: Tensor

    def to(self, device: str) -> _Points:
        """The same on a device."""
        return _Points(**{name: value.to(device) for name, value in vars(self).items()})

    @property
    def probe(self) -> tuple[Tensor, Tensor]:
        """Tokens and condition of the first Q points."""
        count = len(self.output)
        return self.tokens[:count], self.condition[:count]


@dataclass(frozen=True, kw_only=True)
class _BlockTask:
    """Measurements in one block: which bits to try for each linear, and the points before it."""

    job: Job
    name: str
    index: int
    wanted: Mapping[str, Sequence[int]]
    points: _Points


def measure_sensitivity(
    job: Job,
    trajectories: Trajectories,
    candidates: Mapping[str, Sequence[int]],
    *,
    executor: Executor,
    workspace: Workspace,
    progress: Progress,
) -> dict[str, dict[int, float]]:
    """Measure every linear at each of its candidate configurations.

    Args:
        job: full-precision model; the recipe says how assignments start and how many points there
            are.
        trajectories: the teacher's points.
        candidates: full name -> bits to try.
        executor: measures blocks, which do not depend on each other.
        workspace: keeps each finished block.
        progress: stage "sensitivity".
    Returns:
        Full name -> bits -> relative squared error of the output.
    """
    blocks: list[Mapping[str, Sequence[int]]] = [
        {name: bits for name, bits in candidates.items() if name.startswith(f"blocks.{index}.")}
        for index in range(job.source.config.depth)
    ]
    units = [f"sensitivity-{index:03d}" for index in range(len(blocks))]
    saved = {unit: workspace.load_tensors(unit) for unit in units}
    errors = {unit: tensors for unit, tensors in saved.items() if tensors is not None}
    total = sum(len(bits) for bits in candidates.values())
    done = dict.fromkeys(units, 0)

    def report(unit: str, count: int) -> None:
        done[unit] = count
        progress("sensitivity", sum(done.values()), total)

    for unit, wanted in zip(units, blocks, strict=True):
        if unit in errors:
            report(unit, sum(len(bits) for bits in wanted.values()))
    tasks = _tasks(job, trajectories, dict(zip(units, blocks, strict=True)), set(errors))
    for unit, result in executor.run(_measure_block, tasks, report):
        errors[unit] = {n: torch.tensor(of, dtype=torch.float64) for n, of in result.items()}
        workspace.save_tensors(unit, errors[unit])
    return {
        name: dict(zip(bits, errors[unit][name].tolist(), strict=True))
        for unit, wanted in zip(units, blocks, strict=True)
        for name, bits in wanted.items()
    }


def _tasks(
    job: Job,
    trajectories: Trajectories,
    wanted: Mapping[str, Mapping[str, Sequence[int]]],
    finished: set[str],
) -> Iterator[_BlockTask]:
    """A task for each block that is to be measured, with the teacher's activations before it."""
    points = _draw_points(job, trajectories)
    last = max((i for i, unit in enumerate(wanted) if unit not in finished), default=-1)
    for index, (unit, candidates) in enumerate(wanted.items()):
        if index > last:
            return
        if unit not in finished:
            before = points.to("cpu")
            yield _BlockTask(job=job, name=unit, index=index, wanted=candidates, points=before)
        block = load_block(job.source, index, job.compute.device)
        points.tokens = run_block(block, points.tokens, points.condition, job.compute)


@torch.no_grad()
def _draw_points(job: Job, trajectories: Trajectories) -> _Points:
    """Points in front of the first block: a pool for the inputs' moments, its head as probe."""
    teacher, recipe = StreamedDiT(job.source, job.compute), job.recipe
    num_tokens = teacher.config.num_tokens
    num_probes = max(_MIN_PROBE_POINTS, _PROBE_TOKENS // num_tokens)
    batch = draw_batch(
        trajectories,
        max(num_probes, recipe.pool_tokens // num_tokens),
        null_label=teacher.config.null_label,
        null_share=recipe.null_share,
        seed=job.seed,
    )
    tokens, condition = teacher.embed(batch.latent, batch.timestep, batch.label)
    moment = condition_moment(teacher, null_share=recipe.null_share, seed=job.seed)
    return _Points(
        tokens=tokens,
        condition=condition,
        output=batch.output[:num_probes],
        condition_moment=moment,
    )


def _measure_block(task: _BlockTask, report: Report) -> dict[str, list[float]]:
    """Errors of each wanted linear of a block, in the order of its bits."""
    job, index = task.job, task.index
    if not task.wanted:
        return {}
    with job.compute.session():
        points = task.points.to(job.compute.device)
        block = load_block(job.source, index, job.compute.device)
        with watch_inputs(block) as watched:
            run_block(block, points.tokens, points.condition, job.compute)
        tokens = []
        for number, (name, bits) in enumerate(task.wanted.items()):
            linear = name.removeprefix(f"blocks.{index}.")
            is_adaln = linear.startswith("adaLN")
            moment = points.condition_moment if is_adaln else watched[linear].mean()
            seed = job.seed + 1000 * index + 10 * number
            for b in bits:
                layer = _quick_layer(block, linear, name, b, job.recipe, moment, seed)
                tokens.append(_run_with(block, linear, layer, points, job.compute))
                report(len(tokens))
        errors = iter(_output_errors(job, index + 1, torch.stack(tokens), points))
    return {name: [next(errors) for _ in bits] for name, bits in task.wanted.items()}


def _quick_layer(
    block: DiTBlock,
    linear: str,
    name: str,
    bits: int,
    recipe: Recipe,
    moment: Tensor,
    seed: int,
) -> nn.Module:
    """A hard layer in the place of a linear, without training."""
    quick = replace(
        recipe,
        num_candidates=1,
        kmeans_iterations=min(recipe.kmeans_iterations, _QUICK_ITERATIONS),
        kmeans_sample=min(recipe.kmeans_sample or _QUICK_SAMPLE, _QUICK_SAMPLE),
    )
    module = block_linears(block)[linear]
    assert isinstance(module, nn.Linear)
    shape = (module.out_features, module.in_features)
    return start_layer(module, layer_spec(name, shape, bits), quick, moment, seed)


def _run_with(
    block: DiTBlock, name: str, layer: nn.Module, points: _Points, compute: Compute
) -> Tensor:
    """The block's output (Q, T, D) on the probe with another layer in the place of one linear."""
    original = block_linears(block)[name]
    replace_linear(block, name, layer)
    try:
        return run_block(block, *points.probe, compute)
    finally:
        replace_linear(block, name, original)


@torch.no_grad()
def _output_errors(job: Job, start: int, tokens: Tensor, points: _Points) -> list[float]:
    """Relative error of the model's output for V variants of the tokens in front of a block.

    tokens: (V, Q, T, D), what `V` variants of the blocks before `start` give.
    """
    outer = outer_model(job.source, job.compute.device)
    variants, count = tokens.shape[:2]
    condition = points.condition[:count].repeat(variants, 1)
    x = tokens.flatten(0, 1)
    for index in range(start, job.source.config.depth):
        block = load_block(job.source, index, job.compute.device)
        x = run_block(block, x, condition, job.compute)
    outputs = outer.unpatchify(outer.final_layer(x, condition)).unflatten(0, (variants, count))
    return [float(relative_error(output, points.output)) for output in outputs]
