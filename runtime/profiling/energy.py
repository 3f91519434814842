"""Energy of some work: counters are read before and after, gauges sampled while it lasts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from .power import PowerSource, total_of

#: Seconds between samples of a gauge; the monitors themselves average over about as long.
_INTERVAL = 0.02


def measure_energy(
    sources: Sequence[PowerSource],
    work: Callable[[], object],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """Do the work and give, per source, joules by rail and in all, and mean watts.

    A source that fails meanwhile is left out. clock: seconds, for tests.
    """
    samplers = [_Sampler(source, clock) for source in sources]
    stop = threading.Event()
    thread = threading.Thread(target=_sample_until, args=(samplers, stop), daemon=True)
    begin = clock()
    for sampler in samplers:
        sampler.sample()
    thread.start()
    try:
        work()
    finally:
        stop.set()
        thread.join()
    for sampler in samplers:
        sampler.sample()
    seconds = clock() - begin
    return [sampler.result(seconds) for sampler in samplers if not sampler.failed]


class _Sampler:
    """Adds up one source's energy."""

    def __init__(self, source: PowerSource, clock: Callable[[], float]) -> None:
        self._source, self._clock = source, clock
        self._joules: dict[str, float] = {}
        self._last: dict[str, float] | None = None
        self._last_time = 0.0
        self.failed = False

    def sample(self) -> None:
        """Read the source once and add what came since the last time."""
        if self.failed:
            return
        try:
            values = self._source.read()
        except (OSError, ValueError):
            self.failed = True
            return
        now = self._clock()
        if self._last is not None:
            for rail, value in values.items():
                added = self._added(self._last.get(rail, value), value, now - self._last_time)
                self._joules[rail] = self._joules.get(rail, 0.0) + added
        self._last, self._last_time = values, now

    def result(self, seconds: float) -> dict[str, Any]:
        """Joules and watts, ready for JSON."""
        total = total_of(self._joules)
        return {
            "source": self._source.name,
            "seconds": seconds,
            "joules": total,
            "watts": total / seconds if seconds > 0 else 0.0,
            "rails": dict(self._joules),
        }

    def _added(self, before: float, now: float, seconds: float) -> float:
        """Joules between two readings: a counter's difference, a gauge's trapezoid."""
        if not self._source.is_counter:
            return 0.5 * (before + now) * seconds
        if now < before and self._source.wraps_at is not None:
            return now + self._source.wraps_at - before
        return max(0.0, now - before)


def _sample_until(samplers: Sequence[_Sampler], stop: threading.Event) -> None:
    while not stop.wait(_INTERVAL):
        for sampler in samplers:
            sampler.sample()
