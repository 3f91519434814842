"""Tasks for tests of executors; a module of its own, so that other processes can import it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from vq4dit.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number; `folder` is where work on it leaves traces."""

    name: str
    value: int
    folder: Path | None = None


def square(task: Number, report) -> int:
    """The square; reports the number, then its square."""
    report(task.value)
    report(task.value**2)
    return task.value**2


def refuse_three(task: Number, report) -> int:
    """Fails for one of them, as work on a damaged file would."""
    if task.value == 3:
        raise ShapeError("three is odd; needed an even number")
    return task.value


def die_once(task: Number, report) -> int:
    """Kill the process at the first try."""
    trace = task.folder / task.name
    if not trace.exists():
        trace.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def die_always(task: Number, report) -> int:
    """Kill the process at every try."""
    with open(task.folder / "deaths", "a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
    return 0
