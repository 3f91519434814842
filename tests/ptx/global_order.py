"""Races in global memory: who accessed each byte last, and whether a barrier lies between.

Two accesses of different warps, one of them a write, race unless both warps are of one block and a
barrier orders them. Of several reads only the last one is kept, but reads by two blocks are never
forgotten.
"""

from __future__ import annotations

import numpy as np

from ptx.failures import FailureKind
from ptx.faults import Fault, first
from ptx.geometry import Geometry
from ptx.ordering import Ordering

_NOBODY, _SEVERAL = -1, -2


class LastAccess:
    """For each byte of a buffer: block of the launch, warp in the block, its clock, and thread of
    the group."""

    def __init__(self, num_bytes: int) -> None:
        self.block = np.full(num_bytes, _NOBODY, np.int32)
        self.warp = np.zeros(num_bytes, np.int32)
        self.clock = np.zeros(num_bytes, np.int32)
        self.thread = np.zeros(num_bytes, np.int32)


class GlobalOrder:
    """Order of the accesses of one group of blocks."""

    def __init__(self, geometry: Geometry, ordering: Ordering) -> None:
        self.geometry = geometry
        self.ordering = ordering
        self.block = (geometry.first_block + geometry.block_in_group).astype(np.int32)

    def note(self, last: LastAccess, places: np.ndarray, threads: np.ndarray) -> None:
        """Record an access by threads (n,) to the bytes at places (n, num_bytes)."""
        block = self.block[threads][:, None]
        before = last.block[places]
        last.block[places] = np.where((before == _NOBODY) | (before == block), block, _SEVERAL)
        if (self.block[threads] != self.block[threads[0]]).any():
            last.block[places[last.block[places] != block]] = _SEVERAL
        last.warp[places] = self.geometry.warp_in_block[threads][:, None]
        last.clock[places] = self.ordering.now[self.geometry.warp[threads]][:, None]
        last.thread[places] = threads[:, None]

    def check(
        self, last: LastAccess | None, places: np.ndarray, threads: np.ndarray, what: str
    ) -> None:
        """Check that accesses by threads (n,) come after the last ones to places (n, num_bytes).

        Raises:
            Fault: one races.
        """
        if last is None:
            return
        block = last.block[places]
        same_block = block == self.block[threads][:, None]
        warps = self.geometry.warp[threads]
        known = self.ordering.known[warps[:, None], np.where(same_block, last.warp[places], 0)]
        ordered = same_block & (last.clock[places] <= known)
        racing = (block != _NOBODY) & ~ordered
        if racing.any():
            place = first(racing)
            raise Fault(
                FailureKind.RACE,
                f"{what}, byte {int(places[place][racing[place]][0])}",
                thread=int(threads[place]),
            )
