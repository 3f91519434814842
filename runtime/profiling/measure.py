"""Profiles one engine or several side by side: latency, throughput, layers, memory, energy.

Latency is measured first, with nothing switched on but a clock around each run; what disturbs
comes after it: ONNX Runtime's profiler in sessions of its own, memory in processes of their own,
power in runs of their own. Several engines take turns, so that all meet the same load of the
machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vq4dit.errors import OptionError

from .comparison import comparison
from .engine_under_test import EngineTrace, EngineUnderTest, measure_pictures, timed_steps
from .event_cost import EventCost, measure_event_cost
from .latency import latency
from .machine import machine_facts
from .options import ProfileOptions
from .peaks import Peaks, measure_peaks
from .power import PowerSource, power_sources

FORMAT = 1

#: Told after every measurement: (what, measurements done, measurements in all).
Progress = Callable[[str, int, int], None]

_THROUGHPUT_SHARE = 4


@dataclass(frozen=True, kw_only=True)
class Profile:
    """`document` holds plain values with the keys of docs/profiling.md; `traces` one per engine."""

    document: dict[str, Any]
    traces: list[EngineTrace]


def profile_engines(
    directories: Sequence[Path],
    options: ProfileOptions,
    *,
    progress: Progress = lambda what, done, total: None,
) -> Profile:
    """Measure engines side by side.

    Args:
        directories: engine directories, at least one.
        options: what and how often.
        progress: told what was done.
    Raises:
        ArtifactError, BackendUnavailable: an engine does not open here.
        OptionError: no engine, or a batch that an engine cannot do.
    """
    if not directories:
        raise OptionError("no engine directory was given, needed at least one")
    with ExitStack() as stack:
        engines = [
            stack.enter_context(EngineUnderTest(name, path, options))
            for name, path in zip(_names(directories), directories, strict=True)
        ]
        measurements = _Measurements(engines, options)
        stages = measurements.stages()
        for done, (what, stage) in enumerate(stages, start=1):
            stage()
            progress(what, done, len(stages))
    return Profile(
        document=measurements.document(),
        traces=[engine.trace for engine in engines if engine.trace is not None],
    )


class _Measurements:
    """All that is measured, in order, and what the machine told meanwhile."""

    def __init__(self, engines: list[EngineUnderTest], options: ProfileOptions) -> None:
        self._engines, self._options = engines, options
        self._machine: dict[str, Any] = {}
        self._peaks = Peaks(threads=0, gflops=0.0, gbytes_per_s=0.0)
        self._event_cost = EventCost(per_node_us=0.0, per_tensor_us=0.0, renaming_us=0.0)
        self._sources: tuple[list[PowerSource], list[str]] = ([], [])

    def stages(self) -> list[tuple[str, Callable[[], None]]]:
        """Name and work of each measurement."""
        options, engines = self._options, self._engines
        stages: list[tuple[str, Callable[[], None]]] = [
            ("machine", self._note_machine),
            ("step latency", self._step_latency),
            *((f"batch {batch}", partial(self._throughput, batch)) for batch in options.batches),
            ("pictures", partial(measure_pictures, engines, options)),
            ("peaks", self._measure_peaks),
        ]
        if options.layers:
            stages.append(("profiler's cost", self._measure_event_cost))
            stages += [(f"layers, {e.name}", partial(self._layers, e)) for e in engines]
        if options.energy:
            stages.append(("power sources", self._find_sources))
            stages += [(f"energy, {e.name}", partial(self._energy, e)) for e in engines]
        if options.memory:
            stages += [(f"memory, {engine.name}", engine.measure_memory) for engine in engines]
        return stages

    def document(self) -> dict[str, Any]:
        """Everything as plain values."""
        results = [engine.result for engine in self._engines]
        return {
            "format": FORMAT,
            "machine": self._machine,
            "peaks": self._peaks.to_dict(),
            "options": self._options.to_dict(),
            "engines": results,
            "comparison": comparison(results),
        }

    def _note_machine(self) -> None:
        self._machine = machine_facts()

    def _step_latency(self) -> None:
        options = self._options
        times = timed_steps(self._engines, options, options.batch, options.repeats)
        for engine, seconds in zip(self._engines, times, strict=True):
            engine.result["step"] = {
                "batch": options.batch,
                **latency(seconds).to_dict(),
                "runs_ms": [1e3 * s for s in seconds],
            }

    def _throughput(self, batch: int) -> None:
        options = self._options
        able = [engine for engine in self._engines if engine.can_do(batch)]
        repeats = -(-options.repeats // _THROUGHPUT_SHARE)
        for engine, seconds in zip(able, timed_steps(able, options, batch, repeats), strict=True):
            summary = latency(seconds)
            row = {
                "batch": batch,
                "count": summary.count,
                "median_ms": summary.median_ms,
                "ms_per_sample": summary.median_ms / batch,
                "images_per_s": 1e3 * batch / (summary.median_ms * options.steps),
            }
            engine.result.setdefault("throughput", []).append(row)

    def _measure_peaks(self) -> None:
        self._peaks = measure_peaks(self._options.threads)

    def _measure_event_cost(self) -> None:
        self._event_cost = measure_event_cost()

    def _layers(self, engine: EngineUnderTest) -> None:
        engine.measure_layers(self._peaks, self._event_cost)

    def _find_sources(self) -> None:
        self._sources = power_sources()

    def _energy(self, engine: EngineUnderTest) -> None:
        engine.measure_energy(*self._sources)


def _names(directories: Sequence[Path]) -> list[str]:
    """The last parts of the paths, with more of the path where they are alike."""
    resolved = [path.resolve() for path in directories]
    for length in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-length:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({i + 1})" for i, path in enumerate(resolved)]
