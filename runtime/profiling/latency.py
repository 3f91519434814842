"""What a list of measured times says: median, percentiles, jitter. And how to take such a list."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

#: Runs that are measured even where they take longer than the time allowed.
MIN_REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Summary of repeated measurements, in milliseconds.

    `jitter_ms` is the mean absolute difference of one run and the next: what a caller that waits
    for each picture feels, and slow drift of the clock does not enter.
    """

    count: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    max_ms: float
    mean_ms: float
    jitter_ms: float

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return asdict(self)


def latency(seconds: Sequence[float]) -> Latency:
    """Summarise measured times, in the order in which they were measured; at least one."""
    ms = 1e3 * np.asarray(seconds, np.float64)
    median, p90, p99 = np.percentile(ms, (50, 90, 99))
    return Latency(
        count=len(ms),
        median_ms=float(median),
        p90_ms=float(p90),
        p99_ms=float(p99),
        min_ms=float(ms.min()),
        max_ms=float(ms.max()),
        mean_ms=float(ms.mean()),
        jitter_ms=float(np.abs(np.diff(ms)).mean()) if len(ms) > 1 else 0.0,
    )


def fastest(seconds: Sequence[float]) -> list[int]:
    """Indices of the fastest quarter of some runs (MIN_REPEATS at the least), in their order.

    Other programs only ever make a run slower, so the fastest runs tell most of the engine.
    """
    order = np.argsort(np.asarray(seconds), kind="stable")
    return sorted(int(i) for i in order[: max(MIN_REPEATS, len(seconds) // 4)])


def mean_of_fastest(values: Sequence[float]) -> float:
    """Mean over the fastest runs."""
    return float(np.mean([values[i] for i in fastest(values)]))


def timed_in_turn(
    calls: Sequence[Callable[[], object]],
    *,
    repeats: int,
    budget_seconds: float,
    block: int = 10,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Time some calls side by side, a block of runs of each in turn: all meet the same load.

    Args:
        calls: what to time; each has been warmed up.
        repeats: runs of each.
        budget_seconds: after so long, per call, no new block begins; but MIN_REPEATS runs are made.
        block: runs of one call before the next call's turn; where calls alternate, the first run
            of a block is not counted, since caches hold the other call's data.
        clock: seconds, for tests.
    Returns:
        Seconds of each run, per call; as many for each.
    """
    lead = 1 if len(calls) > 1 else 0
    times: list[list[float]] = [[] for _ in calls]
    begin = clock()
    while len(times[0]) < repeats:
        late = clock() - begin > budget_seconds * len(calls)
        if late and len(times[0]) >= MIN_REPEATS:
            break
        size = min(block, repeats - len(times[0]))
        if late or clock() - begin > 0.5 * budget_seconds * len(calls):
            size = 1
        for call, measured in zip(calls, times, strict=True):
            for run in range(-lead, size):
                start = clock()
                call()
                if run >= 0:
                    measured.append(clock() - start)
    return times
