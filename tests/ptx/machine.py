"""State of a group of blocks while it executes: registers and memories."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ptx.async_groups import AsyncGroups
from ptx.geometry import WARP_SIZE, Geometry
from ptx.global_memory import GlobalAccess
from ptx.local_memory import LocalMemory
from ptx.ordering import Ordering
from ptx.shared_memory import SharedMemory
from ptx.statistics import Statistics
from ptx.warpgroup_products import WarpgroupProducts

#: (num_threads,) bool, True for threads that take part; None for all of the group.
Mask = np.ndarray | None

#: Generic addresses of shared and local memory lie in windows far above every global buffer.
SHARED_WINDOW = 1 << 60
LOCAL_WINDOW = 1 << 61


@dataclass
class Machine:
    """Everything that an instruction may read or change.

    Attributes:
        registers: by slot, (num_threads,) bits, or None where never written.
        undefined: by slot, the threads for which a register was never written; absent if none.
        carry: carry flags of add.cc and its kin.
        parameters: parameter memory.
        symbols: addresses of variables, each in its own space.
        matrices: operands of tensor cores that were taken out of registers last.
    """

    geometry: Geometry
    ordering: Ordering
    registers: list[np.ndarray | None]
    undefined: dict[int, np.ndarray]
    carry: np.ndarray
    parameters: np.ndarray
    symbols: dict[str, int]
    global_memory: GlobalAccess
    shared: SharedMemory
    local: LocalMemory
    async_groups: AsyncGroups
    products: WarpgroupProducts
    statistics: Statistics
    matrices: dict[tuple, tuple[np.ndarray, list[np.ndarray]]] = field(default_factory=dict)

    @property
    def num_threads(self) -> int:
        return self.geometry.num_threads

    def active(self, mask: Mask) -> np.ndarray:
        """Threads of a mask, in ascending order."""
        return self.geometry.existing if mask is None else np.flatnonzero(mask)

    def warps(self, mask: Mask) -> np.ndarray:
        """Warps of the group with threads of a mask, in ascending order."""
        if mask is None:
            return np.arange(self.geometry.num_warps)
        return np.flatnonzero(mask.reshape(-1, WARP_SIZE).any(axis=1))
