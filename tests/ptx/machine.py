"""State of a group of blocks while it executes: registers and memories."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ptx.async_groups import AsyncGroups
from ptx.geometry import Geometry
from ptx.global_memory import GlobalAccess
from ptx.local_memory import LocalMemory
from ptx.ordering import Ordering
from ptx.shared_memory import SharedMemory
from ptx.statistics import Statistics

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
    statistics: Statistics
    matrices: dict[tuple, tuple[np.ndarray, list[np.ndarray]]] = field(default_factory=dict)

    @property
    def num_threads(self) -> int:
        return self.geometry.num_threads

    def active(self, mask: Mask) -> np.ndarray:
        """Threads of a mask, in ascending order."""
        return self.geometry.existing if mask is None else np.flatnonzero(mask)
