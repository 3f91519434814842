"""The stage "blocks": every block in turn or, where they do not depend on each other, at once.

In turn: each block's inputs come out of the quantized blocks before it; an executor shares out the
starts of its linears. At once: without inputs (plain K-Means) or with the teacher's own activations
as inputs; an executor shares out whole blocks. Finished blocks are kept in the workspace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import torch

from .blocks import load_block
from .blockwise import BlockTask, Streams, block_task, calibrate_block, run_block, skip_block
from .executor import Executor
from .job import Job
from .layer import VQLinear
from .progress import Progress
from .ratio_training import SoftStep, curve_from_steps, steps_from_curve
from .start import LayerSpec
from .streamed import StreamedDiT
from .trajectory import Trajectories, condition_moment, draw_batch
from .workspace import Workspace


class BlockStage:
    """Calibrates all blocks; `curve` has the steps of each block's open ratios afterwards."""

    def __init__(
        self,
        job: Job,
        specs: dict[str, LayerSpec],
        *,
        independent: bool,
        executor: Executor,
        workspace: Workspace,
        progress: Progress,
    ) -> None:
        """Prepare.

        Args:
            job: model and recipe.
            specs: how to quantize each linear, by full name.
            independent: take the teacher's activations as inputs, so that no block needs another.
            executor: does what can be done at once.
            workspace: keeps finished blocks.
            progress: stage "blocks".
        """
        self._job, self._independent = job, independent
        self._executor, self._workspace, self._progress = executor, workspace, progress
        self._specs = [
            {name: spec for name, spec in specs.items() if name.startswith(f"blocks.{index}.")}
            for index in range(job.source.config.depth)
        ]
        self._steps: list[list[SoftStep]] = [[] for _ in self._specs]
        self._finished: dict[int, dict[str, VQLinear]] = {}

    def run(self, trajectories: Trajectories | None) -> dict[str, VQLinear]:
        """Calibrate what the workspace does not have; all layers by full name, in model order.

        Args:
            trajectories: where blocks' inputs come from; None if the recipe needs none.
        """
        streams = None if trajectories is None else self._streams(trajectories)
        if streams is None or self._independent:
            self._run_at_once(streams)
        else:
            self._run_in_turn(streams)
        return {
            name: layer for i in sorted(self._finished) for name, layer in self._finished[i].items()
        }

    @property
    def curve(self) -> list[dict[str, float]]:
        """A row per step: the block and what a `SoftStep` tells."""
        return [
            {"block": index, **asdict(step)}
            for index, steps in enumerate(self._steps)
            for step in steps
        ]

    def _run_in_turn(self, streams: Streams) -> None:
        """One block after the other, the streams with them."""
        for index, specs in enumerate(self._specs):
            if self._load(index):
                skip_block(self._job, index, self._finished[index], streams)
                continue
            layers = calibrate_block(
                self._job, index, specs, streams, self._executor,
                report=lambda step, index=index: self._soft_step(index, step),
            )  # fmt: skip
            self._finish(index, layers)

    def _run_at_once(self, streams: Streams | None) -> None:
        """All blocks that are missing, each on its own."""
        for index in range(len(self._specs)):
            self._load(index)
        results = self._executor.run(
            block_task, self._tasks(streams), lambda name, step: self._soft_step(_index(name), step)
        )
        for name, layers in results:
            self._finish(_index(name), layers)

    def _tasks(self, streams: Streams | None) -> Iterator[BlockTask]:
        """A task for each block that is missing, with the teacher's activations before it."""
        missing = [i for i in range(len(self._specs)) if i not in self._finished]
        for index in range(max(missing, default=-1) + 1):
            if index in missing:
                yield BlockTask(
                    job=self._job,
                    name=_unit(index),
                    index=index,
                    specs=self._specs[index],
                    streams=None if streams is None else streams.to("cpu"),
                )
            if streams is not None:
                self._advance_teacher(index, streams)

    def _advance_teacher(self, index: int, streams: Streams) -> None:
        """Both streams become the teacher's activations behind a block."""
        compute = self._job.compute
        block = load_block(self._job.source, index, compute.device)
        streams.teacher = run_block(block, streams.teacher, streams.condition, compute)
        streams.student = streams.teacher

    @torch.no_grad()
    def _streams(self, trajectories: Trajectories) -> Streams:
        """The points in front of the first block."""
        recipe, seed = self._job.recipe, self._job.seed
        teacher = StreamedDiT(self._job.source, self._job.compute)
        batch = draw_batch(
            trajectories,
            max(1, recipe.pool_tokens // teacher.config.num_tokens),
            null_label=teacher.config.null_label,
            null_share=recipe.null_share,
            seed=seed,
        )
        tokens, condition = teacher.embed(batch.latent, batch.timestep, batch.label)
        moment = condition_moment(teacher, null_share=recipe.null_share, seed=seed)
        return Streams(teacher=tokens, student=tokens, condition=condition, condition_moment=moment)

    def _load(self, index: int) -> bool:
        """Take a block from the workspace; whether it is there."""
        stored = self._workspace.load_layers(_unit(index), self._specs[index])
        if stored is None:
            return False
        self._steps[index] = steps_from_curve(stored.others["curve"])
        self._keep(index, stored.layers)
        return True

    def _finish(self, index: int, layers: dict[str, VQLinear]) -> None:
        """Store a block that was calibrated."""
        curve = curve_from_steps(self._steps[index])
        self._workspace.save_layers(_unit(index), layers, {"curve": curve})
        self._keep(index, layers)

    def _keep(self, index: int, layers: dict[str, VQLinear]) -> None:
        """Count a block as finished."""
        device = self._job.compute.device
        self._finished[index] = {name: layer.to(device) for name, layer in layers.items()}
        self._tell()

    def _soft_step(self, index: int, step: SoftStep) -> None:
        """Keep a step's numbers and tell how far the blocks are."""
        self._steps[index].append(step)
        self._tell(**asdict(step))

    def _tell(self, **values: float) -> None:
        """Tell the progress: soft steps, and all of a block's pieces once it is finished."""
        pieces = self._job.recipe.block_steps
        done = sum(
            pieces if index in self._finished else len(steps)
            for index, steps in enumerate(self._steps)
        )
        self._progress("blocks", done, len(self._specs) * pieces, **values)


def _unit(index: int) -> str:
    """Name of a block's unit in the workspace, and of its task."""
    return f"block-{index:03d}"


def _index(unit: str) -> int:
    """The block of a unit."""
    return int(unit.removeprefix("block-"))
