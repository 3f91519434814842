"""The stages of one calibration in order: what each needs, its seconds and its curves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TypeVar

import torch

from .allocation import Allocation, allocate_bits
from .block_stage import BlockStage
from .blocks import dense_linear, load_block, replace_linear
from .distillation import Distiller
from .dit import DiT, DiTBlock
from .executor import Executor
from .job import Job
from .layer import VQLinear
from .modelwise import ModelCalibration
from .precision import Precision, fitting_bits
from .progress import Progress
from .sensitivity import measure_sensitivity
from .start import LayerSpec, layer_spec
from .streamed import StreamedDiT, outer_model
from .trajectory import Trajectories, sample_trajectories
from .workspace import DISTILLATION, Workspace

#: Training steps of the whole model between two saved states.
_SAVE_EVERY = 25

_T = TypeVar("_T")


class Stages:
    """One calibration in progress."""

    def __init__(
        self,
        job: Job,
        precision: Precision,
        *,
        independent_blocks: bool,
        executor: Executor,
        workspace: Workspace,
        progress: Progress,
    ) -> None:
        self._job, self._precision = job, precision
        self._pinned = precision.pinned(job.source.config)
        self._independent_blocks, self._executor = independent_blocks, executor
        self._workspace, self._progress = workspace, progress
        self.allocation: Allocation | None = None
        self.seconds: dict[str, float] = {}
        self.soft: list[dict[str, float]] = []
        self.distill: list[float] = []

    def run(self) -> dict[str, VQLinear]:
        """Run all stages; hard layers by full name."""
        recipe, trajectories = self._job.recipe, None
        if recipe.needs_trajectories or self._precision.has_budget:
            trajectories = self._timed("trajectories", self._trajectories)
            if self._precision.has_budget:
                self.allocation = self._timed("sensitivity", lambda: self._allocate(trajectories))
        if not recipe.needs_trajectories or trajectories is None:
            return self._timed("blocks", lambda: self._blocks(None))
        layers = self._timed("blocks", lambda: self._blocks(trajectories))
        if recipe.scope == "model" and recipe.soft_steps:
            layers = self._timed("ratios", lambda: self._ratios(layers, trajectories))
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
        recipe = self._job.recipe
        return sample_trajectories(
            StreamedDiT(self._job.source, self._job.compute),
            num_samples=recipe.num_trajectories,
            num_steps=recipe.trajectory_steps,
            guidance_range=recipe.guidance_range,
            seed=self._job.seed,
            progress=lambda done: self._progress("trajectories", done, recipe.trajectory_steps),
        )

    def _allocate(self, trajectories: Trajectories) -> Allocation:
        """Bits of every linear, by measured sensitivity; finished blocks from the workspace."""
        config = self._job.source.config
        sensitivity = measure_sensitivity(
            self._job,
            trajectories,
            {
                name: fitting_bits(name, shape)
                for name, shape in config.block_linear_shapes().items()
                if name not in self._pinned
            },
            executor=self._executor,
            workspace=self._workspace,
            progress=self._progress,
        )
        return allocate_bits(config, self._precision, sensitivity)

    def _blocks(self, trajectories: Trajectories | None) -> dict[str, VQLinear]:
        """Every block; finished ones come from the workspace."""
        stage = BlockStage(
            self._job,
            self._specs(),
            independent=self._independent_blocks,
            executor=self._executor,
            workspace=self._workspace,
            progress=self._progress,
        )
        layers = stage.run(trajectories)
        self.soft = stage.curve
        return layers

    def _specs(self) -> dict[str, LayerSpec]:
        """Layout and row groups of all quantized linears by full name."""
        bits: Mapping[str, int | None] = self.allocation.bits if self.allocation else self._pinned
        chosen = {
            name: (shape, bits.get(name, self._precision.bits))
            for name, shape in self._job.source.config.block_linear_shapes().items()
        }
        return {
            name: layer_spec(name, shape, number)
            for name, (shape, number) in chosen.items()
            if number is not None
        }

    def _student(self, layers: Mapping[str, VQLinear]) -> DiT:
        """The model with quantized linears in its blocks; its other tensors are the teacher's."""
        source, device = self._job.source, self._job.compute.device
        student = outer_model(source, device)
        with torch.device("meta"):
            student.blocks.extend(DiTBlock(source.config) for _ in range(source.config.depth))
        for name in source.config.block_linear_shapes():
            _, index, linear = name.split(".", 2)
            layer = layers.get(name) or dense_linear(source, name, device)
            replace_linear(student.blocks[int(index)], linear, layer)
        return student

    def _ratios(
        self, layers: dict[str, VQLinear], trajectories: Trajectories
    ) -> dict[str, VQLinear]:
        """Open ratios of the whole model at once; this alone needs the whole teacher in memory.

        Returns:
            The layers, which are others than those that were given where a state was saved.
        """
        source, device = self._job.source, self._job.compute.device
        saved = self._workspace.load_layers("ratios", self._specs())
        if saved is not None:
            layers = {name: layer.to(device) for name, layer in saved.layers.items()}
        teacher = outer_model(source, device)
        depth = source.config.depth
        teacher.blocks.extend(load_block(source, index, device) for index in range(depth))
        training = ModelCalibration(teacher, self._student(layers), trajectories, self._job)
        if saved is not None:
            training.load_state(saved.others)
        for step in training.run():
            done = len(training.steps)
            self._progress("ratios", done, self._job.recipe.soft_steps, **asdict(step))
            if done % _SAVE_EVERY == 0:
                self._workspace.save_layers("ratios", layers, training.state())
        self.soft = [asdict(step) for step in training.steps]
        return layers

    def _distillation(self, layers: dict[str, VQLinear], trajectories: Trajectories) -> None:
        """Train codebooks and biases on the model's output, saving the state now and then."""
        total = self._job.recipe.distill_steps
        distiller = Distiller(self._student(layers), trajectories, self._job)
        saved = self._workspace.load_tensors(DISTILLATION)
        if saved is not None:
            distiller.load_state(saved)
        for loss in distiller.run():
            self._progress("distillation", distiller.step, total, loss=loss)
            if distiller.step % _SAVE_EVERY == 0:
                self._workspace.save_tensors(DISTILLATION, distiller.state())
        self.distill = distiller.losses
