"""Races in shared memory: who accessed each granule last, and what lies between.

Of writes the last one is kept, of reads the last one of each warp: what an access may race with.
The clocks of ordering.py tell whether barriers order two warps. Two threads of one warp are ordered
once their warp has been at a barrier since, of the block or of its own.

An access is kept as one number, a stamp: clock * 1024 + thread in the block for a write, and
clock * 64 + lane for a read, where lane 32 means several. Stamp 0 is that of no access.
"""

from __future__ import annotations

import numpy as np

from ptx.failures import FailureKind
from ptx.faults import Fault, first
from ptx.geometry import WARP_SIZE, Geometry
from ptx.ordering import Ordering

_THREADS = 1024
_LANES = 64
_SEVERAL = WARP_SIZE


class SharedOrder:
    """Last accesses to the shared memory of a group's blocks, by granule.

    Args:
        num_granules: of all blocks together.
        granule: bytes of one, for messages.
        stride: bytes from one block's memory to the next one's, for messages.
    """

    def __init__(
        self, num_granules: int, granule: int, stride: int, geometry: Geometry, ordering: Ordering
    ) -> None:
        self.granule = granule
        self.stride = stride
        self.geometry = geometry
        self.ordering = ordering
        self.writes = np.zeros(num_granules, np.int64)
        self.ticks = np.zeros(num_granules, np.int64)
        self.reads = np.zeros((num_granules, geometry.warps_per_block), np.int64)

    def note_read(self, granules: np.ndarray, threads: np.ndarray) -> None:
        """Check and record reads of (n, k) granules by n threads.

        Raises:
            Fault: one was never written, or its last write races with the read.
        """
        self.check_read(granules, threads)
        self.record_read(granules, threads)

    def check_read(self, granules: np.ndarray, threads: np.ndarray) -> None:
        """Check reads of (n, k) granules by n threads; faults as in `note_read`."""
        self.check_written(granules, threads)
        self._check_after_write(granules, threads, "read")

    def check_fenced(self, granules: np.ndarray, threads: np.ndarray) -> None:
        """Check that the async proxy sees what was written to (n, k) granules.

        Raises:
            Fault: no fence lies between a write and the read.
        """
        stamps = self.writes[granules]
        clock, writer = stamps // _THREADS, stamps % _THREADS // WARP_SIZE
        warps = self.geometry.warp[threads][:, None]
        unseen = clock > self.ordering.fenced[warps, writer]
        unseen &= self.ticks[granules] >= self.ordering.fenced_ticks[warps, writer]
        if unseen.any():
            raise Fault(
                FailureKind.PROXY_NOT_FENCED,
                f"shared byte {self.address(granules, unseen)} was written by no such way",
                thread=int(threads[first(unseen)]),
            )

    def record_read(self, granules: np.ndarray, threads: np.ndarray) -> None:
        """Record reads that were checked, such as the end of one in the background."""
        reads = self.reads.reshape(-1)
        places = granules * self.geometry.warps_per_block
        places += self.geometry.warp_in_block[threads][:, None]
        start = self._now(threads) * _LANES
        own = start + self.geometry.lane[threads][:, None]
        before = reads[places]
        again = (before >= start) & (before != own)
        if again.any():
            own = np.where(again, start + _SEVERAL, own)
        reads[places] = own
        lost = reads[places] != own  # several lanes read one granule at once
        if lost.any():
            reads[places[lost]] = np.broadcast_to(start + _SEVERAL, places.shape)[lost]

    def note_write(self, granules: np.ndarray, threads: np.ndarray) -> None:
        """Check and record writes of (n, k) granules by n threads.

        Raises:
            Fault: one races with an earlier access, or two warps write one granule at once.
        """
        self._check_after_write(granules, threads, "write")
        self._check_after_reads(granules, threads)
        self.record_write(granules, threads)
        writer = self.writes[granules] % _THREADS
        lost = writer // WARP_SIZE != self.geometry.warp_in_block[threads][:, None]
        if lost.any():
            raise self._race(lost, granules, threads, "two warps write at once")

    def record_write(self, granules: np.ndarray, threads: np.ndarray) -> None:
        """Record writes that need no check, such as the end of a copy."""
        thread = self.geometry.thread_in_block[threads][:, None]
        self.writes[granules] = self._now(threads) * _THREADS + thread
        self.ticks[granules] = self.ordering.tick

    def check_written(self, granules: np.ndarray, threads: np.ndarray) -> None:
        """Check that granules have been written.

        Raises:
            Fault: one has not.
        """
        failed = self.writes[granules] == 0
        if failed.any():
            raise Fault(
                FailureKind.UNINITIALISED_SHARED,
                f"read of shared byte {self.address(granules, failed)}, never written",
                thread=int(threads[first(failed)]),
            )

    def address(self, granules: np.ndarray, chosen: np.ndarray) -> int:
        """Address in its block of the first chosen granule."""
        return int(granules[chosen][0]) * self.granule % self.stride

    def _now(self, threads: np.ndarray) -> np.ndarray:
        """(n, 1) clocks of the threads' warps."""
        return self.ordering.now[self.geometry.warp[threads]][:, None].astype(np.int64)

    def _check_after_write(self, granules: np.ndarray, threads: np.ndarray, what: str) -> None:
        stamps = self.writes[granules]
        if stamps.size == 0 or stamps.max() // _THREADS <= self.ordering.known_to_all:
            return
        clock, writer = stamps // _THREADS, stamps % _THREADS
        known = self.ordering.known[self.geometry.warp[threads][:, None], writer // WARP_SIZE]
        racing = clock > known
        if racing.any():
            raise self._race(racing, granules, threads, f"{what} after another warp's write")
        same_warp = writer // WARP_SIZE == self.geometry.warp_in_block[threads][:, None]
        other_lane = same_warp & (writer != self.geometry.thread_in_block[threads][:, None])
        racing = other_lane & (clock >= self._now(threads))
        if racing.any():
            raise self._race(racing, granules, threads, f"{what} after another lane's write")

    def _check_after_reads(self, granules: np.ndarray, threads: np.ndarray) -> None:
        stamps = self.reads[granules]  # (n, k, warps of the block)
        if stamps.size == 0 or stamps.max() // _LANES <= self.ordering.known_to_all:
            return
        warps = self.geometry.warp[threads]
        racing = stamps // _LANES > self.ordering.known[warps][:, None, :]
        if racing.any():
            what = "write after another warp's read"
            raise self._race(racing.any(axis=2), granules, threads, what)
        own = self.reads[granules, self.geometry.warp_in_block[threads][:, None]]
        other_lane = own % _LANES != self.geometry.lane[threads][:, None]
        racing = other_lane & (own // _LANES >= self._now(threads))
        if racing.any():
            raise self._race(racing, granules, threads, "write after another lane's read")

    def _race(
        self, racing: np.ndarray, granules: np.ndarray, threads: np.ndarray, what: str
    ) -> Fault:
        return Fault(
            FailureKind.RACE,
            f"{what} without a barrier, shared byte {self.address(granules, racing)}",
            thread=int(threads[first(racing)]),
        )
