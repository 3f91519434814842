"""Shared memory of a group's blocks: contents, bounds, and copies under way.

Its state is kept for granules: the smallest width that the kernel accesses, so that every access
covers whole granules. shared_order.py finds races.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ptx.failures import FailureKind
from ptx.faults import Fault, first
from ptx.geometry import Geometry
from ptx.ordering import Ordering
from ptx.scalar_types import ScalarType
from ptx.shared_order import SharedOrder

_ALIGNMENT = 128
#: Fresh shared memory, and the target of a copy under way: NaN in every float format.
_POISON = 0xFF


class SharedMemory:
    """Shared memory of all blocks of a group, one after the other."""

    def __init__(
        self, num_bytes: int, granule: int, geometry: Geometry, ordering: Ordering
    ) -> None:
        self.num_bytes = num_bytes
        self.granule = granule
        self.geometry = geometry
        self.stride = -(-max(num_bytes, 1) // _ALIGNMENT) * _ALIGNMENT
        total = self.stride * geometry.num_blocks
        self.raw = np.full(total, _POISON, np.uint8)
        granules = total // granule
        self.order = SharedOrder(granules, granule, self.stride, geometry, ordering)
        self.under_way = np.zeros(granules, bool)
        self.num_under_way = 0
        self.being_read = np.zeros(granules, np.int32)
        self.num_being_read = 0

    def load(
        self, addresses: np.ndarray, scalar_type: ScalarType, count: int, threads: np.ndarray
    ) -> np.ndarray:
        """Read `count` neighbours of a type at each address of the active threads.

        Returns:
            (n, count).
        Raises:
            Fault: misaligned, out of bounds, never written, racing, or still being copied to.
        """
        num_bytes = scalar_type.num_bytes * count
        starts = self._place(addresses, num_bytes, threads)
        granules = self._granules(starts, num_bytes)
        self._check_under_way(granules, threads, "read")
        self.order.note_read(granules, threads)
        return self.raw.view(scalar_type.dtype).reshape(-1, count)[starts // num_bytes]

    def store(
        self, addresses: np.ndarray, values: Sequence[np.ndarray], threads: np.ndarray
    ) -> None:
        """Write neighbouring values at each address of the active threads.

        Raises:
            Fault: misaligned, out of bounds, racing, or still being copied to.
        """
        size = values[0].dtype.itemsize
        starts = self._place(addresses, size * len(values), threads)
        granules = self._note_write(starts, size * len(values), threads)
        elements = self.raw.view(values[0].dtype)
        for number, value in enumerate(values):
            elements[starts // size + number] = value
        if len(values) * size and len(np.unique(granules)) != granules.size:
            self._check_one_value(starts, values, threads)

    def update(
        self,
        addresses: np.ndarray,
        scalar_type: ScalarType,
        threads: np.ndarray,
        combine: Callable[[np.generic, int], np.generic],
    ) -> np.ndarray:
        """Atomically replace the value at each address, thread after thread; return old ones."""
        size = scalar_type.num_bytes
        starts = self._place(addresses, size, threads)
        granules = self._granules(starts, size)
        self._check_under_way(granules, threads, "update")
        self.order.check_written(granules, threads)
        elements = self.raw.view(scalar_type.dtype)
        old = np.empty(len(threads), scalar_type.dtype)
        for place, start in enumerate(starts // size):
            old[place] = elements[start]
            elements[start] = combine(old[place], int(place))
        return old

    def begin_copy(self, addresses: np.ndarray, num_bytes: int, threads: np.ndarray) -> np.ndarray:
        """Start asynchronous writes: their targets may not be touched until they are waited for.

        Returns:
            (n,) places of the targets, for `end_copy`.
        """
        starts = self._place(addresses, num_bytes, threads)
        granules = self._note_write(starts, num_bytes, threads)
        self.under_way[granules] = True
        self.num_under_way += granules.size
        self.raw[starts[:, None] + np.arange(num_bytes)] = _POISON
        return starts

    def end_copy(self, starts: np.ndarray, data: np.ndarray, threads: np.ndarray) -> None:
        """Finish asynchronous writes: from now on they count as done by the waiting threads.

        Args:
            starts: (n,) as returned by `begin_copy`.
            data: (n, num_bytes) uint8.
        """
        num_bytes = data.shape[1]
        granules = self._granules(starts, num_bytes)
        self.raw[starts[:, None] + np.arange(num_bytes)] = data
        self.under_way[granules] = False
        self.num_under_way -= granules.size
        self.order.record_write(granules, threads)

    def begin_reads(
        self, addresses: np.ndarray, num_bytes: int, threads: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Start reads by the async proxy: until `end_reads` nobody may write there.

        Args:
            addresses: (n, k) of `num_bytes` bytes each.
            threads: (n,) that they are for.
        Returns:
            (n, k, num_bytes) uint8; (n, granules) for `end_reads`.
        Raises:
            Fault: as of `load`, or no fence of the async proxy lies behind the last write.
        """
        count = addresses.shape[1]
        starts = self._place(addresses.reshape(-1), num_bytes, np.repeat(threads, count))
        granules = self._granules(starts, num_bytes).reshape(len(threads), -1)
        self._check_under_way(granules, threads, "read")
        self.order.check_read(granules, threads)
        self.order.check_fenced(granules, threads)
        np.add.at(self.being_read, granules, 1)
        self.num_being_read += granules.size
        data = self.raw[starts[:, None] + np.arange(num_bytes)]
        return data.reshape(len(threads), count, num_bytes), granules

    def end_reads(self, granules: np.ndarray, threads: np.ndarray) -> None:
        """Finish reads: from now on they count as done by the waiting threads."""
        np.subtract.at(self.being_read, granules, 1)
        self.num_being_read -= granules.size
        self.order.record_read(granules, threads)

    def _place(self, addresses: np.ndarray, num_bytes: int, threads: np.ndarray) -> np.ndarray:
        """Addresses in a block -> places in the group's memory."""
        addresses = addresses.astype(np.int64)
        misaligned = addresses % num_bytes != 0
        if misaligned.any():
            place = first(misaligned)
            raise Fault(
                FailureKind.MISALIGNED,
                f"shared address {int(addresses[place])} for {num_bytes} bytes",
                thread=int(threads[place]),
            )
        outside = (addresses < 0) | (addresses + num_bytes > self.num_bytes)
        if outside.any():
            place = first(outside)
            raise Fault(
                FailureKind.OUT_OF_BOUNDS,
                f"shared bytes {int(addresses[place])}..{int(addresses[place]) + num_bytes - 1} of "
                f"{self.num_bytes}",
                thread=int(threads[place]),
            )
        return self.geometry.block_in_group[threads] * self.stride + addresses

    def _granules(self, starts: np.ndarray, num_bytes: int) -> np.ndarray:
        return (starts // self.granule)[:, None] + np.arange(num_bytes // self.granule)

    def _note_write(self, starts: np.ndarray, num_bytes: int, threads: np.ndarray) -> np.ndarray:
        granules = self._granules(starts, num_bytes)
        self._check_under_way(granules, threads, "write")
        self._check_being_read(granules, threads)
        self.order.note_write(granules, threads)
        return granules

    def _check_under_way(self, granules: np.ndarray, threads: np.ndarray, what: str) -> None:
        if self.num_under_way and (failed := self.under_way[granules]).any():
            place = first(failed)
            raise Fault(
                FailureKind.ASYNC_NOT_WAITED,
                f"{what} before cp.async.wait, shared byte {self.order.address(granules, failed)}",
                thread=int(threads[place]),
            )

    def _check_being_read(self, granules: np.ndarray, threads: np.ndarray) -> None:
        if self.num_being_read and (failed := self.being_read[granules] > 0).any():
            raise Fault(
                FailureKind.RACE,
                "write while a wgmma that was not waited for reads, shared byte "
                f"{self.order.address(granules, failed)}",
                thread=int(threads[first(failed)]),
            )

    def _check_one_value(
        self, starts: np.ndarray, values: Sequence[np.ndarray], threads: np.ndarray
    ) -> None:
        """Threads of a warp may write one place in one instruction only if they write the same."""
        size = values[0].dtype.itemsize
        elements = self.raw.view(values[0].dtype)
        for number, value in enumerate(values):
            bits = np.dtype(f"u{size}")
            lost = elements[starts // size + number].view(bits) != np.asarray(value).view(bits)
            if lost.any():
                raise Fault(
                    FailureKind.RACE,
                    "two threads of a warp write different values to one place",
                    thread=int(threads[first(lost)]),
                )
