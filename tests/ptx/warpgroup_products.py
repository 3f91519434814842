"""wgmma: products under way, the registers and the shared memory that belong to them.

Products run in the background in groups, which warps commit as they do copies. Until a product is
waited for, nothing may touch its sums or overwrite its A in registers (reading A is refused too),
and nothing may write what it reads in shared memory. Between anything else that touches such
registers and a product there must be a wgmma.fence, and one before the first product.
Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions": wgmma.fence, commit_group,
wait_group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptx.failures import FailureKind
from ptx.faults import Fault, first
from ptx.geometry import WARP_SIZE, Geometry
from ptx.shared_memory import SharedMemory

_NONE = -1


@dataclass
class _Reads:
    """Shared memory that one wgmma instruction reads, by warp."""

    warps: np.ndarray
    group: np.ndarray
    granules: np.ndarray


class WarpgroupProducts:
    """Products of all warps of a group of blocks; warps are counted one by one."""

    def __init__(self, geometry: Geometry, shared: SharedMemory) -> None:
        self.num_warps = geometry.num_warps
        self.shared = shared
        self.num_committed = np.zeros(self.num_warps, np.int64)
        self.has_fenced = np.zeros(self.num_warps, bool)
        self.is_touched: dict[int, np.ndarray] = {}  # slot -> since the warp's last fence
        self.group_of_a: dict[int, np.ndarray] = {}  # slot -> newest group that reads it
        self.group_of_sums: dict[int, np.ndarray] = {}
        self.shape_of_sums: dict[int, str] = {}
        self.reads: list[_Reads] = []

    def touch(self, slots: tuple[int, ...], warps: np.ndarray) -> None:
        """Note that something else than a product reads or writes registers.

        Raises:
            Fault: a product that uses one is under way.
        """
        for slot in slots:
            for groups in (self.group_of_a, self.group_of_sums):
                self._check_idle(groups, slot, warps)
            touched = self.is_touched.setdefault(slot, np.zeros(self.num_warps, bool))
            touched[warps] = True

    def fence(self, warps: np.ndarray) -> None:
        """Order all that the warps have done to registers before their next products."""
        self.has_fenced[warps] = True
        for touched in self.is_touched.values():
            touched[warps] = False

    def begin(
        self, sums: tuple[int, ...], a: tuple[int, ...], shape: str, warps: np.ndarray
    ) -> None:
        """Start products of some warps on registers `sums` and `a`.

        Raises:
            Fault: a fence is missing, or the registers belong to a product of another kind.
        """
        if not self.has_fenced[warps].all():
            raise _not_fenced(warps[first(~self.has_fenced[warps])])
        for slot in (*sums, *a):
            touched = self.is_touched.get(slot)
            if touched is not None and touched[warps].any():
                raise _not_fenced(warps[first(touched[warps])])
        for slot in a:
            self._check_idle(self.group_of_sums, slot, warps)
            self._put(self.group_of_a, slot, warps)
        for slot in sums:
            self._check_idle(self.group_of_a, slot, warps)
            if self.shape_of_sums.get(slot) != shape:
                self._check_idle(self.group_of_sums, slot, warps)
            self.shape_of_sums[slot] = shape
            self._put(self.group_of_sums, slot, warps)

    def read_shared(self, addresses: np.ndarray, num_bytes: int, warps: np.ndarray) -> np.ndarray:
        """Read (n, k) addresses for n warps until their products are done; (n, k, num_bytes)."""
        data, granules = self.shared.begin_reads(addresses, num_bytes, warps * WARP_SIZE)
        self.reads.append(_Reads(warps, self.num_committed[warps], granules))
        return data

    def commit(self, warps: np.ndarray) -> None:
        """Close the warps' current group."""
        self.num_committed[warps] += 1

    def wait(self, warps: np.ndarray, num_open: int) -> None:
        """Finish all but the newest `num_open` committed groups of the warps."""
        newest_done = np.full(self.num_warps, _NONE)
        newest_done[warps] = self.num_committed[warps] - num_open - 1
        for groups in (self.group_of_a, self.group_of_sums):
            for group in groups.values():
                group[group <= newest_done] = _NONE
        still: list[_Reads] = []
        for reads in self.reads:
            done = reads.group <= newest_done[reads.warps]
            if done.any():
                self.shared.end_reads(reads.granules[done], reads.warps[done] * WARP_SIZE)
            if not done.all():
                still.append(_Reads(reads.warps[~done], reads.group[~done], reads.granules[~done]))
        self.reads = still

    def _put(self, groups: dict[int, np.ndarray], slot: int, warps: np.ndarray) -> None:
        group = groups.setdefault(slot, np.full(self.num_warps, _NONE))
        group[warps] = self.num_committed[warps]

    def _check_idle(self, groups: dict[int, np.ndarray], slot: int, warps: np.ndarray) -> None:
        group = groups.get(slot)
        if group is not None and (busy := group[warps] != _NONE).any():
            raise Fault(
                FailureKind.REGISTER_IN_FLIGHT,
                "a register is touched while a product may still use it",
                thread=int(warps[first(busy)]) * WARP_SIZE,
            )


def _not_fenced(warp: int) -> Fault:
    return Fault(
        FailureKind.REGISTER_NOT_FENCED,
        "no wgmma.fence since a register of the product was touched, or none at all",
        thread=int(warp) * WARP_SIZE,
    )
