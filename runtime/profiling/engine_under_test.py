"""One engine under measurement: opened once, asked for one kind of figure after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vq4dit.errors import BackendUnavailable, OptionError
from vq4dit.runtime.images import PICTURE_CHANNELS
from vq4dit.runtime.pipeline import Pipeline
from vq4dit.runtime.session import NodeTime

from .breakdown import weights_by_layer
from .energy import measure_energy
from .event_cost import EventCost
from .inputs import step_inputs
from .latency import latency, timed_in_turn
from .layers import decoder_layers, step_layers
from .memory import memory_by_phase
from .options import ProfileOptions
from .peaks import Peaks
from .power import PowerSource
from .timed_sessions import RunLog, timed

_ENERGY_SECONDS = 2.0
_IDLE_SECONDS = 1.0
_MEMORY_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class EngineTrace:
    """What a trace shows of an engine: the last whole picture, and the nodes of one step.

    Times of the picture are in seconds of `time.perf_counter`.
    """

    name: str
    begin: float
    end: float
    steps: RunLog
    decodes: RunLog
    nodes: tuple[NodeTime, ...] = ()


class EngineUnderTest:
    """An open engine and the figures so far; a context manager that closes it.

    Args:
        name: as reports call it.
        directory: engine directory.
        options: what to measure.
    Raises:
        ArtifactError, BackendUnavailable: the engine does not open here.
        OptionError: it cannot do a step of `options.batch` samples.
    """

    def __init__(self, name: str, directory: Path, options: ProfileOptions) -> None:
        self.name = name
        self.trace: EngineTrace | None = None
        self._pictures: list[EngineTrace] = []
        self._directory, self._options = directory, options
        start = time.perf_counter()
        self.pipeline = Pipeline(
            directory,
            accuracy=options.accuracy,
            threads=options.threads,
            providers=options.providers,
        )
        seconds = time.perf_counter() - start
        manifest = self.pipeline.manifest
        if not self.can_do(options.batch):
            self.pipeline.close()
            raise OptionError(
                f"{directory}: a step takes {manifest.batch_min}..{manifest.batch_max} samples, "
                f"but batch is {options.batch}"
            )
        self.result: dict[str, Any] = {
            "name": name,
            "target": manifest.target,
            "form": manifest.form,
            "compute_dtype": manifest.compute_dtype,
            "cfg": manifest.cfg,
            "source_sha256": manifest.source_sha256,
            "file_bytes": sum(entry.bytes for entry in manifest.files.values()),
            "bits_per_weight": _mean_bits(self.pipeline),
            "load_seconds": seconds,
            "weights": weights_by_layer(manifest),
        }

    def can_do(self, batch: int) -> bool:
        """Whether a step of so many samples is possible."""
        manifest = self.pipeline.manifest
        return manifest.batch_min <= batch <= (manifest.batch_max or batch)

    def warm_up_pictures(self) -> None:
        """A short picture that does not count."""
        if self._options.warmup:
            self._draw(min(self._options.steps, 2))

    def time_picture(self) -> None:
        """One whole picture through the pipeline, and the time spent outside the engine's runs."""
        with timed(self.pipeline) as (step_log, decode_log):
            start = time.perf_counter()
            self._draw(self._options.steps)
            end = time.perf_counter()
        self._pictures.append(
            EngineTrace(name=self.name, begin=start, end=end, steps=step_log, decodes=decode_log)
        )

    def note_pictures(self) -> None:
        """Sum up the pictures timed so far, at least one."""
        options, pictures = self._options, self._pictures
        self.trace = pictures[-1]
        spans = [picture.end - picture.begin for picture in pictures]
        gaps = [gap for picture in pictures for gap in picture.steps.gaps]
        decodes = [seconds for picture in pictures for seconds in picture.decodes.seconds]
        self.result["image"] = {
            "steps": options.steps,
            "sampler": options.sampler,
            "batch": options.batch,
            "output": self._output,
            **latency([span / options.batch for span in spans]).to_dict(),
            "images_per_s": options.batch / latency(spans).median_ms * 1e3,
        }
        self.result["decode"] = latency(decodes).to_dict() if decodes else None
        self.result["host_overhead_per_step"] = latency(gaps).to_dict() if gaps else None

    def measure_layers(self, peaks: Peaks, event_cost: EventCost) -> None:
        """Times of the step's and the decoder's layers, in sessions of their own.

        Where the backend cannot tell them the reason is noted instead.
        """
        try:
            profile, self.result["layers"] = step_layers(
                self.pipeline, self._options, peaks=peaks, event_cost=event_cost
            )
        except BackendUnavailable as error:
            self.result["layers"], self.result["layers_why_not"] = None, str(error)
            return
        self.result["decoder_layers"] = decoder_layers(
            self.pipeline, self._options, peaks=peaks, event_cost=event_cost
        )
        if self.trace is not None:
            self.trace = replace(self.trace, nodes=profile.last_run)

    def measure_energy(self, sources: Sequence[PowerSource], why_not: Sequence[str]) -> None:
        """Joules of a step: the sources over a while of nothing, then over a while of steps."""
        options = self._options
        self.result["energy"] = {"sources": [], "why_not": list(why_not)}
        if not sources:
            return
        session = self.pipeline.sessions.step
        inputs = step_inputs(self.pipeline.manifest, options.batch)
        num_steps = 0

        def work() -> None:
            nonlocal num_steps
            end = time.perf_counter() + _ENERGY_SECONDS
            while num_steps < 1 or time.perf_counter() < end:
                session.run(inputs)
                num_steps += 1

        idle = measure_energy(sources, lambda: time.sleep(_IDLE_SECONDS))
        idle_watts = {row["source"]: row["watts"] for row in idle}
        for row in measure_energy(sources, work):
            joules = row["joules"] / num_steps
            self.result["energy"]["sources"].append(
                {
                    **row,
                    "num_steps": num_steps,
                    "idle_watts": idle_watts.get(row["source"]),
                    "joules_per_step": joules,
                    "joules_per_image": joules * options.steps / options.batch,
                }
            )

    def measure_memory(self) -> None:
        """Memory by phase, in a process of its own."""
        options = self._options
        self.result["memory"] = memory_by_phase(
            self._directory,
            {
                "batch": options.batch,
                "threads": options.threads,
                "accuracy": options.accuracy,
                "providers": options.providers and list(options.providers),
            },
            timeout=_MEMORY_TIMEOUT_SECONDS,
        )

    def __enter__(self) -> EngineUnderTest:
        return self

    def __exit__(self, *_: object) -> None:
        self.pipeline.close()

    @property
    def _output(self) -> str:
        """Pictures where the engine can give them."""
        manifest = self.pipeline.manifest
        can = "decoder" in manifest.files or manifest.latent_shape[0] in PICTURE_CHANNELS
        return "uint8" if can else "latent"

    def _draw(self, steps: int) -> None:
        options = self._options
        num_classes = self.pipeline.manifest.model.num_classes
        self.pipeline(
            [i % num_classes for i in range(options.batch)],
            steps=steps,
            sampler=options.sampler,
            batch_size=options.batch,
            output=self._output,
        )


def timed_steps(
    engines: Sequence[EngineUnderTest], options: ProfileOptions, batch: int, repeats: int
) -> list[list[float]]:
    """Seconds of steps of each engine after a warm-up, the engines in turn."""
    calls = []
    for engine in engines:
        session = engine.pipeline.sessions.step
        calls.append(partial(session.run, step_inputs(engine.pipeline.manifest, batch)))
    for call in calls:
        for _ in range(options.warmup):
            call()
    return timed_in_turn(calls, repeats=repeats, budget_seconds=options.seconds) if calls else []


def measure_pictures(engines: Sequence[EngineUnderTest], options: ProfileOptions) -> None:
    """Whole pictures of each engine after a warm-up, a picture of each in turn."""
    for engine in engines:
        engine.warm_up_pictures()
    begin = time.perf_counter()
    for repeat in range(options.image_repeats):
        if repeat and time.perf_counter() - begin > options.seconds * len(engines):
            break
        for engine in engines:
            engine.time_picture()
    for engine in engines:
        engine.note_pictures()


def _mean_bits(pipeline: Pipeline) -> float | None:
    """Bits per weight of all linears of the blocks together."""
    manifest = pipeline.manifest
    sizes = {n: o * i for n, (o, i) in manifest.model.block_linear_shapes().items()}
    known = {n: manifest.bits_per_weight[n] for n in sizes if n in manifest.bits_per_weight}
    total = sum(sizes[n] for n in known)
    return sum(sizes[n] * bits for n, bits in known.items()) / total if total else None
