"""Calibrate a checkpoint into an artifact: all stages in order, resumable unit by unit.

Stages: trajectories of the teacher; the linears' sensitivities, where bits are allocated within a
budget; each block's start (and its open ratios, where the recipe's
scope is "block"); the whole model's open ratios (scope "model"); distillation of codebooks and
biases; writing. Plain K-Means is the recipe without data and training.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch

from vq4dit.errors import OptionError

from .allocation import Allocation, allocate_bits, check_precision
from .artifact import ArtifactInfo, save_artifact
from .blocks import dense_linear, load_block, replace_linear
from .blockwise import Streams, calibrate_block, skip_block
from .checkpoint import Checkpoint, CheckpointOptions
from .distillation import Distiller
from .dit import DiT, DiTBlock
from .layer import VQLinear
from .modelwise import calibrate_model
from .precision import Precision, fitting_bits
from .progress import Progress, silent
from .ratio_training import SoftStep
from .recipe import Recipe, recipe_by_name
from .sensitivity import measure_sensitivity
from .source import open_checkpoint
from .start import LayerSpec, layer_spec
from .streamed import StreamedDiT, outer_model
from .summary import (
    CalibrationSummary,
    layer_sizes,
    model_name,
    peak_rss_bytes,
    weight_errors,
)
from .trajectory import Trajectories, condition_moment, draw_batch, sample_trajectories
from .workspace import Workspace

#: Distillation steps between two saved states.
_SAVE_EVERY = 25

#: Settings that an artifact does not repeat or does not depend on.
_NOT_STORED = ("source_sha256", "threads")

_T = TypeVar("_T")


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
        seed: of everything random; the same seed and thread count give the same bytes.
        resume: go on from the finished units of an interrupted run with the same settings.
        options: what the caller knows of the checkpoint.
        progress: told after each piece of work.
    Returns:
        Summary; without its curves it is also stored in the artifact's metadata.
    Raises:
        ArtifactError: the checkpoint is damaged, or the disk does not take the output.
        OptionError: an option is unknown or contradicts the file.
    """
    precision = Precision(
        bits=bits, keep=tuple(keep), target_bits=target_bits, target_bytes=target_bytes
    )
    output = Path(output)
    if not output.parent.is_dir():
        raise OptionError(f"{output}: the folder {output.parent} does not exist; create it first")
    chosen = recipe if isinstance(recipe, Recipe) else recipe_by_name(recipe)
    source = open_checkpoint(checkpoint, options)
    check_precision(source.config, precision)
    settings = {
        "source_sha256": source.sha256,
        **precision.to_dict(),
        "seed": seed,
        "recipe": json.loads(json.dumps(chosen.to_dict())),
        "threads": torch.get_num_threads(),
    }
    workspace = Workspace(output, settings, resume=resume)
    run = _Run(source, chosen, precision, seed, workspace, progress)
    layers = run.layers()
    layer_bytes, bits_per_weight = layer_sizes(layers)
    summary = CalibrationSummary(
        recipe=chosen.name,
        bits=round(run.allocation.bits_per_weight, 3) if run.allocation else bits,
        seed=seed,
        seconds={name: round(value, 1) for name, value in run.seconds.items()},
        peak_rss_bytes=peak_rss_bytes(),
        weight_error=weight_errors(source, layers),
        model=model_name(source.config),
        layer_bytes=layer_bytes,
        bits_per_weight=bits_per_weight,
        soft=run.soft,
        distill=run.distill,
        keep=precision.to_dict()["keep"],
        allocation=run.allocation.to_dict() if run.allocation else None,
    )
    settings["allocation"] = summary.allocation
    _write(output, source, layers, settings)
    workspace.remove()
    return summary


class _Run:
    """One calibration in progress: its stages, their seconds and curves."""

    def __init__(
        self,
        source: Checkpoint,
        recipe: Recipe,
        precision: Precision,
        seed: int,
        workspace: Workspace,
        progress: Progress,
    ) -> None:
        self._source, self._recipe, self._seed = source, recipe, seed
        self._workspace, self._progress = workspace, progress
        self._teacher = StreamedDiT(source)
        self._precision, self._pinned = precision, precision.pinned(source.config)
        self.allocation: Allocation | None = None
        self.seconds: dict[str, float] = {}
        self.soft: list[dict[str, float]] = []
        self.distill: list[float] = []

    def layers(self) -> dict[str, VQLinear]:
        """Run all stages; hard layers by full name."""
        recipe, has_budget = self._recipe, self._precision.has_budget
        if not recipe.needs_trajectories and not has_budget:
            return self._timed("blocks", lambda: self._blocks(None))
        trajectories = self._timed("trajectories", self._trajectories)
        if has_budget:
            self.allocation = self._timed("sensitivity", lambda: self._allocate(trajectories))
        if not recipe.needs_trajectories:
            return self._timed("blocks", lambda: self._blocks(None))
        layers = self._timed("blocks", lambda: self._blocks(trajectories))
        if recipe.scope == "model" and recipe.soft_steps:
            self._timed("ratios", lambda: self._ratios(layers, trajectories))
        if recipe.distill_steps:
            self._timed("distillation", lambda: self._distillation(layers, trajectories))
        return layers

    def _timed(self, stage: str, work: Callable[[], _T]) -> _T:
        """Run a stage and keep its wall time."""
        start = time.perf_counter()
        result = work()
        self.seconds[stage] = time.perf_counter() - start
        return result

    def _trajectories(self) -> Trajectories:
        """Points on the teacher's trajectories; made anew on resume, since they are seeded."""
        recipe = self._recipe
        return sample_trajectories(
            self._teacher,
            num_samples=recipe.num_trajectories,
            num_steps=recipe.trajectory_steps,
            guidance_range=recipe.guidance_range,
            seed=self._seed,
            progress=lambda done: self._progress("trajectories", done, recipe.trajectory_steps),
        )

    def _allocate(self, trajectories: Trajectories) -> Allocation:
        """Bits of every linear, by measured sensitivity; finished blocks from the workspace."""
        config = self._source.config
        sensitivity = measure_sensitivity(
            self._source,
            trajectories,
            {
                name: fitting_bits(name, shape)
                for name, shape in config.block_linear_shapes().items()
                if name not in self._pinned
            },
            self._recipe,
            self._seed,
            workspace=self._workspace,
            progress=self._progress,
        )
        return allocate_bits(config, self._precision, sensitivity)

    def _spec(self, name: str, shape: tuple[int, int]) -> LayerSpec | None:
        """How a linear is quantized, None where it stays dense."""
        bits: Mapping[str, int | None] = self.allocation.bits if self.allocation else self._pinned
        chosen = bits.get(name, self._precision.bits)
        return None if chosen is None else layer_spec(name, shape, chosen)

    def _blocks(self, trajectories: Trajectories | None) -> dict[str, VQLinear]:
        """Every block in turn; finished ones come from the workspace."""
        layers: dict[str, VQLinear] = {}
        streams = None if trajectories is None else self._streams(trajectories)
        depth = self._source.config.depth
        steps = self._recipe.block_steps
        for index in range(depth):
            unit = f"block-{index:03d}"
            specs = self._specs(index)
            done = self._workspace.load_layers(unit, specs)
            if done is None:
                done = calibrate_block(
                    self._source,
                    index,
                    specs,
                    streams,
                    self._recipe,
                    self._seed,
                    report=lambda step, start=index * steps: self._soft_step(step, start),
                )
                if not any(layer.is_soft for layer in done.values()):
                    self._workspace.save_layers(unit, done)
            elif streams is not None:
                skip_block(self._source, index, done, streams)
            layers |= done
            self._progress("blocks", (index + 1) * steps, depth * steps)
        return layers

    def _soft_step(self, step: SoftStep, start: int) -> None:
        """Keep a step's numbers and tell how far the blocks are."""
        steps, depth = self._recipe.block_steps, self._source.config.depth
        done = start + len(self.soft) % steps + 1
        self.soft.append({"block": start // steps, **asdict(step)})
        self._progress("blocks", done, depth * steps, **asdict(step))

    def _specs(self, index: int) -> dict[str, LayerSpec]:
        """Layout and row groups of a block's quantized linears by full name."""
        shapes = self._source.config.block_linear_shapes()
        specs = {
            name: self._spec(name, shape)
            for name, shape in shapes.items()
            if name.startswith(f"blocks.{index}.")
        }
        return {name: spec for name, spec in specs.items() if spec is not None}

    @torch.no_grad()
    def _streams(self, trajectories: Trajectories) -> Streams:
        """The points in front of the first block."""
        teacher, recipe = self._teacher, self._recipe
        num_points = max(1, recipe.pool_tokens // teacher.config.num_tokens)
        batch = draw_batch(
            trajectories,
            num_points,
            null_label=teacher.config.null_label,
            null_share=recipe.null_share,
            seed=self._seed,
        )
        tokens, condition = teacher.embed(batch.latent, batch.timestep, batch.label)
        moment = condition_moment(teacher, null_share=recipe.null_share, seed=self._seed)
        return Streams(teacher=tokens, student=tokens, condition=condition, condition_moment=moment)

    def _student(self, layers: dict[str, VQLinear]) -> DiT:
        """The model with quantized linears in its blocks; its other tensors are the teacher's."""
        student, config = outer_model(self._source), self._source.config
        with torch.device("meta"):
            student.blocks.extend(DiTBlock(config) for _ in range(config.depth))
        for name in config.block_linear_shapes():
            _, index, linear = name.split(".", 2)
            layer = layers.get(name) or dense_linear(self._source, name)
            replace_linear(student.blocks[int(index)], linear, layer)
        return student

    def _ratios(self, layers: dict[str, VQLinear], trajectories: Trajectories) -> None:
        """Open ratios of the whole model at once; this alone needs the whole teacher in memory."""
        teacher = outer_model(self._source)
        depth = self._source.config.depth
        teacher.blocks.extend(load_block(self._source, index) for index in range(depth))
        steps = calibrate_model(
            teacher, self._student(layers), trajectories, self._recipe, self._seed
        )
        for done, step in enumerate(steps, start=1):
            self.soft.append(asdict(step))
            self._progress("ratios", done, self._recipe.soft_steps, **self.soft[-1])

    def _distillation(self, layers: dict[str, VQLinear], trajectories: Trajectories) -> None:
        """Train codebooks and biases on the model's output, saving the state now and then."""
        total = self._recipe.distill_steps
        distiller = Distiller(self._student(layers), trajectories, self._recipe, self._seed)
        saved = self._workspace.load_tensors("distillation")
        if saved is not None:
            distiller.load_state(saved)
        for loss in distiller.run():
            self.distill.append(loss)
            self._progress("distillation", distiller.step, total, loss=loss)
            if distiller.step % _SAVE_EVERY == 0:
                self._workspace.save_tensors("distillation", distiller.state())


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
