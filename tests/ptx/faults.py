"""A failed check inside the emulator, before it is known where the kernel stands."""

from __future__ import annotations

import numpy as np

from ptx.failures import FailureKind


class Fault(Exception):
    """A check failed for one thread of the group; execution adds instruction and place."""

    def __init__(self, kind: FailureKind, detail: str, *, thread: int) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.thread = thread


class NotTogether(Fault):
    """Threads stand at a warp-wide instruction that others of their warp have not reached.

    Attributes:
        waiting: (num_threads,) bool, the threads that are there.
    """

    def __init__(self, waiting: np.ndarray) -> None:
        detail = "the rest of the warp is elsewhere"
        super().__init__(FailureKind.DIVERGENT_WARP, detail, thread=first(waiting))
        self.waiting = waiting


def first(failed: np.ndarray) -> int:
    """Place of the first True along the first axis of an array of one or two axes."""
    return int(np.argmax(failed.any(axis=1) if failed.ndim == 2 else failed))
