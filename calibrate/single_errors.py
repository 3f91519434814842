"""The error of one step with one linear alone quantized to so many bits, for all of them.

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
from .drift import Variant, kind_of
from .executor import Executor, Report
from .job import Job
from .layer import VQLinear
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


@dataclass(frozen=True, kw_only=True)
class _BlockResult:
    """Errors of each linear in the order of its bits, and the quick layers, by `_layer_name`."""

    errors: dict[str, list[float]]
    layers: dict[str, VQLinear]


def measure_single_errors(
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
        workspace: keeps each finished block, its quick layers too.
        progress: stage "sensitivity".
    Returns:
        Full name -> bits -> relative squared error of the output.
    """
    blocks: list[Mapping[str, Sequence[int]]] = [
        {name: bits for name, bits in candidates.items() if name.startswith(f"blocks.{index}.")}
        for index in range(job.source.config.depth)
    ]
    units = [_unit(index) for index in range(len(blocks))]
    finished = {unit for unit in units if workspace.load_tensors(unit) is not None}
    total = sum(len(bits) for bits in candidates.values())
    done = dict.fromkeys(units, 0)

    def report(unit: str, count: int) -> None:
        done[unit] = count
        progress("sensitivity", sum(done.values()), total)

    for unit, wanted in zip(units, blocks, strict=True):
        if unit in finished:
            report(unit, sum(len(bits) for bits in wanted.values()))
    tasks = _tasks(job, trajectories, dict(zip(units, blocks, strict=True)), finished)
    for unit, result in executor.run(_measure_block, tasks, report):
        errors = {n: torch.tensor(of, dtype=torch.float64) for n, of in result.errors.items()}
        workspace.save_layers(unit, result.layers, errors)
    return _load_errors(workspace, candidates)


def _block_of(name: str) -> int:
    """Index of a linear's block, from its full name."""
    return int(name.split(".")[1])


def _unit(index: int) -> str:
    return f"sensitivity-{index:03d}"


def _layer_name(name: str, bits: int) -> str:
    """Name under which a linear's quick layer is stored."""
    return f"{name}@{bits}"


def _load_errors(
    workspace: Workspace, candidates: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, float]]:
    """Errors of all linears; every block is finished."""
    errors = {}
    for index in sorted({_block_of(name) for name in candidates}):
        stored = workspace.load_tensors(_unit(index)) or {}
        for name, bits in candidates.items():
            if _block_of(name) == index:
                errors[name] = dict(zip(bits, stored[name].tolist(), strict=True))
    return {name: errors[name] for name in candidates}


def load_quick_layers(
    job: Job, workspace: Workspace, candidates: Mapping[str, Sequence[int]], index: int
) -> dict[Variant, VQLinear]:
    """Quick layers of a finished block by kind and bits."""
    shapes = job.source.config.block_linear_shapes()
    wanted = {
        _layer_name(name, b): (name, b)
        for name, bits in candidates.items()
        if _block_of(name) == index
        for b in bits
    }
    specs = {key: layer_spec(name, shapes[name], b) for key, (name, b) in wanted.items()}
    stored = workspace.load_layers(_unit(index), specs)
    assert stored is not None, f"{_unit(index)} was measured before"
    return {
        (kind_of(name), b): stored.layers[key].to(job.compute.device)
        for key, (name, b) in wanted.items()
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


def _measure_block(task: _BlockTask, report: Report) -> _BlockResult:
    """Quantize each wanted linear of a block, and measure it."""
    job, index = task.job, task.index
    layers: dict[str, VQLinear] = {}
    if not task.wanted:
        return _BlockResult(errors={}, layers={})
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
                layers[_layer_name(name, b)] = layer
                tokens.append(_run_with(block, linear, layer, points, job.compute))
                report(len(tokens))
        errors = iter(_output_errors(job, index + 1, torch.stack(tokens), points))
    return _BlockResult(
        errors={name: [next(errors) for _ in bits] for name, bits in task.wanted.items()},
        layers={name: layer.cpu() for name, layer in layers.items()},
    )


def _quick_layer(
    block: DiTBlock,
    linear: str,
    name: str,
    bits: int,
    recipe: Recipe,
    moment: Tensor,
    seed: int,
) -> VQLinear:
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
