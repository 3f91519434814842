"""How far trajectories drift when all linears of one kind are quantized to so many bits.

The error of one step does not tell what a picture suffers: errors that are alike in all steps, such
as those of vectors that belong to the condition, add up, others average out, and some are undone by
the steps that follow. So each variant (a kind of linear and its bits) goes its own way from the
same noise, and the relative squared error of its final latents against the teacher's is taken.
All variants go through a block together, which is then read once per step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .blocks import block_linears, load_block, replace_linear
from .blockwise import run_block
from .job import Job
from .layer import VQLinear
from .losses import relative_error
from .progress import Progress
from .streamed import outer_model
from .trajectory import Starts, draw_starts, guided_step, spaced_timesteps
from .workspace import Workspace

#: A kind of linear, as it is called within a block, and its bits.
Variant = tuple[str, int]

#: Steps of a trajectory: enough to tell errors that add up from those that do not.
_STEPS = 8

#: Trajectories of a variant: as many as have so many tokens, at least and at most.
_TOKENS = 1024
_MIN_SAMPLES, _MAX_SAMPLES = 4, 16

#: Stands for everything worse and for trajectories that left all bounds; 1 is all wrong.
_WORST = 100.0

_UNIT = "drift"


def kind_of(name: str) -> str:
    """Kind of a block's linear from its full name: "blocks.3.attn.qkv" -> "attn.qkv"."""
    return name.split(".", 2)[2]


@torch.no_grad()
def measure_drift(
    job: Job,
    variants: Sequence[Variant],
    quick_layers: Callable[[int], Mapping[Variant, VQLinear]],
    *,
    workspace: Workspace,
    progress: Progress,
) -> dict[Variant, float]:
    """Relative squared error of final latents for each variant.

    Args:
        job: full-precision model, its guidance range and seed.
        variants: what to measure.
        quick_layers: the quantized linears of a block by its index; a variant that is not there
            keeps the block as it is.
        workspace: keeps the result as one unit.
        progress: stage "drift", counted in blocks.
    """
    names = [f"{kind}@{bits}" for kind, bits in variants]
    stored = workspace.load_tensors(_UNIT)
    if stored is None:
        with job.compute.session():
            errors = _final_errors(job, variants, quick_layers, progress)
        stored = {name: torch.tensor(e) for name, e in zip(names, errors, strict=True)}
        workspace.save_tensors(_UNIT, stored)
    return {variant: float(stored[name]) for variant, name in zip(variants, names, strict=True)}


def _final_errors(
    job: Job,
    variants: Sequence[Variant],
    quick_layers: Callable[[int], Mapping[Variant, VQLinear]],
    progress: Progress,
) -> list[float]:
    """Follow the teacher and all variants from the same noise."""
    config = job.source.config
    num_samples = min(max(_TOKENS // config.num_tokens, _MIN_SAMPLES), _MAX_SAMPLES)
    starts = draw_starts(config, num_samples, job.recipe.guidance_range, job.seed)
    latents = starts.latent.repeat(1 + len(variants), 1, 1, 1, 1)  # (1 + V, N, C, H, W)
    steps = spaced_timesteps(_STEPS)
    for i, t in enumerate(steps):

        def done(blocks: int, step: int = i) -> None:
            progress("drift", step * config.depth + blocks, _STEPS * config.depth)

        outputs = _outputs(job, latents, starts, t, variants, quick_layers, done)
        next_t = steps[i + 1] if i + 1 < _STEPS else None
        latents = torch.stack(
            [
                guided_step(latent, *output.chunk(2), starts.guidance, t, next_t)
                for latent, output in zip(latents, outputs, strict=True)
            ]
        )
    errors = [float(relative_error(latent, latents[0])) for latent in latents[1:]]
    return [min(error, _WORST) if error == error else _WORST for error in errors]


def _outputs(
    job: Job,
    latents: Tensor,
    starts: Starts,
    timestep: int,
    variants: Sequence[Variant],
    quick_layers: Callable[[int], Mapping[Variant, VQLinear]],
    done: Callable[[int], None],
) -> Tensor:
    """Outputs (1 + V, 2 N, out_channels, H, W) for the labels and then for the null label."""
    config, device = job.source.config, job.compute.device
    outer = outer_model(job.source, device)
    count = 2 * len(starts.labels)
    labels = torch.cat([starts.labels, torch.full_like(starts.labels, config.null_label)])
    with job.compute.forward():
        tokens, condition = outer.embed(
            latents.repeat(1, 2, 1, 1, 1).flatten(0, 1).to(device),
            torch.full((count * len(latents),), float(timestep), device=device),
            labels.repeat(len(latents)).to(device),
        )
    shared = condition[:count].float()  # is the same for all variants
    parts = list(tokens.float().split(count))
    for index in range(config.depth):
        block, layers = load_block(job.source, index, device), quick_layers(index)
        parts[0] = run_block(block, parts[0], shared, job.compute)
        for number, variant in enumerate(variants, start=1):
            original: nn.Module | None = None
            if variant in layers:
                original = block_linears(block)[variant[0]]
                replace_linear(block, variant[0], layers[variant])
            parts[number] = run_block(block, parts[number], shared, job.compute)
            if original is not None:
                replace_linear(block, variant[0], original)
        done(index + 1)
    with job.compute.forward():
        outputs = [outer.unpatchify(outer.final_layer(part, shared)) for part in parts]
    return torch.stack(outputs).to(latents)
