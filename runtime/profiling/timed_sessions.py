"""Notes when each run of a pipeline's sessions begins and ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from vq4dit.runtime.pipeline import Pipeline


@dataclass(kw_only=True)
class RunLog:
    """Begin and end of the runs of one session, in seconds of `time.perf_counter`."""

    begins: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """Duration of each run."""
        return [end - begin for begin, end in zip(self.begins, self.ends, strict=True)]

    @property
    def gaps(self) -> list[float]:
        """Time between the end of each run and the begin of the next."""
        return [begin - end for begin, end in zip(self.begins[1:], self.ends[:-1], strict=True)]


@contextmanager
def timed(pipeline: Pipeline) -> Iterator[tuple[RunLog, RunLog]]:
    """Log the runs of a pipeline's step model and decoder while the block lasts."""
    logs = {"step": RunLog(), "decode": RunLog()}

    def note(what: Literal["step", "decode"], begin: float, end: float) -> None:
        logs[what].begins.append(begin)
        logs[what].ends.append(end)

    with pipeline.sessions.observed(note):
        yield logs["step"], logs["decode"]
