"""How much the model's output suffers when one linear alone is quantized to so many bits.

Each linear is quantized by a quick start (few K-Means iterations, assignments as the recipe starts
them, no training) and the rest of the model stays as it is; the relative squared error of the
output is taken on points of the teacher's trajectories. Blocks stay in the file: all quantized
variants of a block go through the blocks behind it together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .blocks import block_linears, load_block, replace_linear, watch_inputs
from .blockwise import run_block
from .checkpoint import Checkpoint
from .dit import DiT, DiTBlock
from .losses import relative_error
from .progress import Progress
from .recipe import Recipe
from .start import layer_spec, start_layer
from .streamed import outer_model
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

    @property
    def probe(self) -> tuple[Tensor, Tensor]:
        """Tokens and condition of the first Q points."""
        count = len(self.output)
        return self.tokens[:count], self.condition[:count]


def measure_sensitivity(
    source: Checkpoint,
    trajectories: Trajectories,
    candidates: Mapping[str, Sequence[int]],
    recipe: Recipe,
    seed: int,
    *,
    workspace: Workspace,
    progress: Progress,
) -> dict[str, dict[int, float]]:
    """Measure every linear at each of its candidate configurations.

    Args:
        source: full-precision checkpoint.
        trajectories: the teacher's points.
        candidates: full name -> bits to try.
        recipe: how assignments start, and the size of the pool of points.
        seed: of K-Means and of the choice of points.
        workspace: keeps each finished block.
        progress: stage "sensitivity".
    Returns:
        Full name -> bits -> relative squared error of the output.
    """
    outer = outer_model(source)
    points = _draw_points(outer, trajectories, recipe, seed)
    total = sum(len(bits) for bits in candidates.values())
    found: dict[str, dict[int, float]] = {}
    done = 0
    for index in range(source.config.depth):
        prefix = f"blocks.{index}."
        wanted = {name: bits for name, bits in candidates.items() if name.startswith(prefix)}
        saved = workspace.load_tensors(f"sensitivity-{index:03d}")
        if saved is None:
            errors = _measure_block(
                source, outer, index, points, wanted, recipe, seed,
                report=lambda n, done=done: progress("sensitivity", done + n, total),
            )  # fmt: skip
            saved = {name: torch.tensor(of, dtype=torch.float64) for name, of in errors.items()}
            workspace.save_tensors(f"sensitivity-{index:03d}", saved)
        for name, bits in wanted.items():
            found[name] = dict(zip(bits, saved[name].tolist(), strict=True))
        done += sum(len(bits) for bits in wanted.values())
        progress("sensitivity", done, total)
        points.tokens = run_block(load_block(source, index), points.tokens, points.condition)
    return found


@torch.no_grad()
def _draw_points(outer: DiT, trajectories: Trajectories, recipe: Recipe, seed: int) -> _Points:
    """Points in front of the first block: a pool for the inputs' moments, its head as probe."""
    num_tokens = outer.config.num_tokens
    num_probes = max(_MIN_PROBE_POINTS, _PROBE_TOKENS // num_tokens)
    batch = draw_batch(
        trajectories,
        max(num_probes, recipe.pool_tokens // num_tokens),
        null_label=outer.config.null_label,
        null_share=recipe.null_share,
        seed=seed,
    )
    tokens, condition = outer.embed(batch.latent, batch.timestep, batch.label)
    moment = condition_moment(outer, null_share=recipe.null_share, seed=seed)
    return _Points(
        tokens=tokens,
        condition=condition,
        output=batch.output[:num_probes],
        condition_moment=moment,
    )


def _measure_block(
    source: Checkpoint,
    outer: DiT,
    index: int,
    points: _Points,
    wanted: Mapping[str, Sequence[int]],
    recipe: Recipe,
    seed: int,
    report: Callable[[int], None],
) -> dict[str, list[float]]:
    """Errors of each wanted linear of a block, in the order of its bits."""
    if not wanted:
        return {}
    block = load_block(source, index)
    with watch_inputs(block) as watched:
        run_block(block, points.tokens, points.condition)
    tokens = []
    for number, (name, bits) in enumerate(wanted.items()):
        linear = name.removeprefix(f"blocks.{index}.")
        is_adaln = linear.startswith("adaLN")
        moment = points.condition_moment if is_adaln else watched[linear].mean()
        layer_seed = seed + 1000 * index + 10 * number
        for b in bits:
            layer = _quick_layer(block, linear, name, b, recipe, moment, layer_seed)
            tokens.append(_run_with(block, linear, layer, *points.probe))
            report(len(tokens))
    errors = iter(_output_errors(source, outer, index + 1, torch.stack(tokens), points))
    return {name: [next(errors) for _ in bits] for name, bits in wanted.items()}


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
    block: DiTBlock, name: str, layer: nn.Module, tokens: Tensor, condition: Tensor
) -> Tensor:
    """The block's output (Q, T, D) with another layer in the place of one linear."""
    original = block_linears(block)[name]
    replace_linear(block, name, layer)
    try:
        return run_block(block, tokens, condition)
    finally:
        replace_linear(block, name, original)


@torch.no_grad()
def _output_errors(
    source: Checkpoint, outer: DiT, start: int, tokens: Tensor, points: _Points
) -> list[float]:
    """Relative error of the model's output for V variants of the tokens in front of a block.

    tokens: (V, Q, T, D), what `V` variants of the blocks before `start` give.
    """
    variants, count = tokens.shape[:2]
    condition = points.condition[:count].repeat(variants, 1)
    x = tokens.flatten(0, 1)
    for index in range(start, source.config.depth):
        x = run_block(load_block(source, index), x, condition)
    outputs = outer.unpatchify(outer.final_layer(x, condition)).unflatten(0, (variants, count))
    return [float(relative_error(output, points.output)) for output in outputs]
