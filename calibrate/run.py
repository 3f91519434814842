"""Calibrate a checkpoint into an artifact: all stages in order, resumable unit by unit.

Stages: trajectories of the teacher; the linears' sensitivities, where bits are allocated within a
budget; each block's start (and its open ratios, where the recipe's scope is "block"); the whole
model's open ratios (scope "model"); distillation of codebooks and biases; writing. Plain K-Means is
the recipe without data and training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vq4dit.errors import ArtifactError, OptionError

from .allocation import check_precision
from .artifact import ArtifactInfo, save_artifact
from .checkpoint import Checkpoint, CheckpointOptions
from .compute import AUTO, Compute, compute_for
from .executor import Executor, InProcess
from .job import Job
from .layer import VQLinear
from .precision import Precision
from .progress import Progress, silent
from .recipe import Recipe, recipe_by_name
from .source import open_checkpoint
from .stages import Stages
from .summary import (
    CalibrationSummary,
    layer_sizes,
    model_name,
    peak_rss_bytes,
    weight_errors,
)
from .workspace import Workspace

#: Settings that an artifact does not repeat or does not depend on.
_NOT_STORED = ("source_sha256", "threads", "device")


def calibrate(
    checkpoint: str | Path,
    output: str | Path,
    *,
    bits: int = 2,
    keep: Sequence[tuple[str, str]] = (),
    target_bits: float | None = None,
    target_bytes: int | None = None,
    recipe: Recipe | str = "vq4dit",
    seed: int = 0,
    independent_blocks: bool = False,
    device: str = AUTO,
    autocast: str | None = None,
    ray: str | None = None,
    workers: int | None = None,
    resume: bool = False,
    options: CheckpointOptions | None = None,
    progress: Progress = silent,
) -> CalibrationSummary:
    """Quantize a full-precision checkpoint and write the artifact.

    Args:
        checkpoint: file or folder that `calibrate.source.open_checkpoint` takes.
        output: `NAME.vq.safetensors`; written whole or not at all.
        bits: 1, 2, 3 or 4 bits of assignment per weight, where there is no target.
        keep: (pattern, "fp16" or bits): linears with such names stay dense, or get these bits.
        target_bits: allocate bits by measured sensitivity, to so many bits per weight, or
        target_bytes: to an artifact of so many bytes (`calibrate.precision` has both).
        recipe: a name of `calibrate.recipe.RECIPES` or a Recipe; "kmeans" is the uncalibrated
            baseline.
        seed: of everything random; the same seed, thread count and device give the same bytes.
        independent_blocks: blocks learn on the teacher's activations instead of on what the
            quantized blocks before them give, so that they can be calibrated at the same time.
        device: "auto" (CUDA if torch sees it), "cpu", "cuda" or "cuda:N".
        autocast: "bf16" runs the model in bfloat16; None: in float32.
        ray: share independent work out by Ray: "local" starts processes here, "auto" or
            "HOST:PORT" joins a cluster. None: all in this process. The bytes are the same.
        workers: processes that ray "local" starts.
        resume: go on from the finished units of an interrupted run with the same settings.
        options: what the caller knows of the checkpoint.
        progress: told after each piece of work.
    Returns:
        Summary; without its curves it is also stored in the artifact's metadata.
    Raises:
        ArtifactError: the checkpoint is damaged, or the disk does not take the output.
        OptionError: an option is unknown or contradicts the file.
        BackendUnavailable: no such device, or no Ray.
    """
    precision = Precision(
        bits=bits, keep=tuple(keep), target_bits=target_bits, target_bytes=target_bytes
    )
    output = Path(output)
    if not output.parent.is_dir():
        raise OptionError(f"{output}: the folder {output.parent} does not exist; create it first")
    chosen = recipe if isinstance(recipe, Recipe) else recipe_by_name(recipe)
    _check_independence(chosen, independent_blocks=independent_blocks)
    compute = compute_for(device, autocast)
    source = open_checkpoint(checkpoint, options)
    check_precision(source.config, precision)
    job = Job(source=source, recipe=chosen, seed=seed, compute=compute)
    settings = _settings(job, precision, independent_blocks=independent_blocks)
    with compute.session(), _executor(ray, workers, compute) as executor:
        workspace = Workspace(output, settings, resume=resume)
        stages = Stages(
            job,
            precision,
            independent_blocks=independent_blocks,
            executor=executor,
            workspace=workspace,
            progress=progress,
        )
        layers = stages.run()
    summary = _summary(job, precision, stages, layers)
    settings["allocation"] = summary.allocation
    try:
        _write(output, source, layers, settings)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; what is calibrated is kept, go on with --resume") from error
    workspace.remove()
    return summary


def _check_independence(recipe: Recipe, *, independent_blocks: bool) -> None:
    """Independent blocks are a way of block-wise calibration alone."""
    if independent_blocks and recipe.scope != "block":
        raise OptionError(
            f"recipe {recipe.name!r} trains all blocks together; independent blocks need one that "
            "calibrates block by block, such as 'vq4dit'"
        )


def _settings(job: Job, precision: Precision, *, independent_blocks: bool) -> dict[str, Any]:
    """All that the artifact follows from; what is as by default is left out where it is new."""
    settings: dict[str, Any] = {
        "source_sha256": job.source.sha256,
        **precision.to_dict(),
        "seed": job.seed,
        "recipe": json.loads(json.dumps(job.recipe.to_dict())),
        "threads": job.compute.threads,
        "device": job.compute.device,
    }
    if job.compute.autocast is not None:
        settings["autocast"] = job.compute.autocast
    if independent_blocks:
        settings["independent_blocks"] = True
    return settings


@contextmanager
def _executor(ray: str | None, workers: int | None, compute: Compute) -> Iterator[Executor]:
    """Who does independent work, for as long as the calibration runs."""
    if ray is None:
        if workers is not None:
            raise OptionError(f"{workers} workers need Ray; give --ray local (ray='local') too")
        yield InProcess()
        return
    from .ray_executor import RayExecutor

    with RayExecutor(ray, compute, workers=workers) as executor:
        yield executor


def _summary(
    job: Job, precision: Precision, stages: Stages, layers: dict[str, VQLinear]
) -> CalibrationSummary:
    """What was done, as numbers."""
    layer_bytes, bits_per_weight = layer_sizes(layers)
    allocation = stages.allocation
    return CalibrationSummary(
        recipe=job.recipe.name,
        bits=round(allocation.bits_per_weight, 3) if allocation else precision.bits,
        seed=job.seed,
        seconds={name: round(value, 1) for name, value in stages.seconds.items()},
        peak_rss_bytes=peak_rss_bytes(),
        weight_error=weight_errors(job.source, layers),
        model=model_name(job.source.config),
        layer_bytes=layer_bytes,
        bits_per_weight=bits_per_weight,
        soft=stages.soft,
        distill=stages.distill,
        keep=precision.to_dict()["keep"],
        allocation=allocation.to_dict() if allocation else None,
    )


def _write(
    output: Path,
    source: Checkpoint,
    layers: dict[str, VQLinear],
    settings: dict[str, object],
) -> None:
    """Store the hard layers and every other tensor of the checkpoint."""
    info = ArtifactInfo(
        config=source.config,
        layouts={name: layer.layout for name, layer in layers.items()},
        source_sha256=source.sha256,
        label_names=source.label_names,
        latent_scaling_factor=source.latent_scaling_factor,
        calibration={key: settings[key] for key in settings if key not in _NOT_STORED},
    )
    dense = {
        name: source.tensor(name)
        for name in source.config.tensor_shapes()
        if name.rpartition(".")[0] not in layers
    }
    quantized = {name: layer.quantized() for name, layer in layers.items()}
    save_artifact(output, info, quantized, dense)
