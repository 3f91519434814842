"""cp.async: copies under way and the groups that threads commit them to.

Each thread counts the groups that it has committed; a copy belongs to the group that its thread
commits next. cp.async.wait_group N waits until at most N of the thread's newest groups are open.
Source: PTX ISA, "Data Movement and Conversion Instructions: Non-bulk copy".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptx.shared_memory import SharedMemory


@dataclass
class _Copies:
    """What one cp.async instruction has started and nobody has waited for."""

    threads: np.ndarray
    group: np.ndarray
    starts: np.ndarray
    data: np.ndarray

    def take(self, chosen: np.ndarray) -> _Copies:
        return _Copies(
            self.threads[chosen], self.group[chosen], self.starts[chosen], self.data[chosen]
        )


class AsyncGroups:
    """Copies of all threads of a group of blocks."""

    def __init__(self, num_threads: int, shared: SharedMemory) -> None:
        self.num_committed = np.zeros(num_threads, np.int64)
        self.shared = shared
        self.under_way: list[_Copies] = []

    def begin(self, addresses: np.ndarray, data: np.ndarray, threads: np.ndarray) -> None:
        """Start copies of (n, num_bytes) data to n addresses in shared memory.

        Raises:
            Fault: the targets may not be written now.
        """
        starts = self.shared.begin_copy(addresses, data.shape[1], threads)
        self.under_way.append(_Copies(threads, self.num_committed[threads], starts, data))

    def commit(self, threads: np.ndarray) -> None:
        """Close the threads' current group."""
        self.num_committed[threads] += 1

    def wait(self, threads: np.ndarray, num_open: int) -> None:
        """Finish all but the newest `num_open` committed groups of the threads."""
        newest_done = np.full(len(self.num_committed), -1, np.int64)
        newest_done[threads] = self.num_committed[threads] - num_open - 1
        still: list[_Copies] = []
        for copies in self.under_way:
            done = copies.group <= newest_done[copies.threads]
            if done.any():
                finished = copies.take(done)
                self.shared.end_copy(finished.starts, finished.data, finished.threads)
            if not done.all():
                still.append(copies.take(~done))
        self.under_way = still
