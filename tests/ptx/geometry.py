"""Which threads execute together: the blocks of one group laid out along one axis.

Every register is an array with one entry per thread of the group: blocks one after the other, each
padded to whole warps. Threads that only pad never run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

WARP_SIZE = 32

#: (x, y, z)
Extent = tuple[int, int, int]


def unravel(position: int | np.ndarray, extent: Extent) -> tuple:
    """Linear position -> (x, y, z), x fastest."""
    width, height, _ = extent
    return position % width, position // width % height, position // (width * height)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A group of consecutive blocks of a launch.

    Attributes:
        grid, block: extents of the launch.
        first_block: linear number of the group's first block.
        num_blocks: blocks in the group.
    """

    grid: Extent
    block: Extent
    first_block: int
    num_blocks: int

    @property
    def threads_per_block(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def warps_per_block(self) -> int:
        return -(-self.threads_per_block // WARP_SIZE)

    @property
    def num_warps(self) -> int:
        return self.num_blocks * self.warps_per_block

    @property
    def num_threads(self) -> int:
        """Threads along the axis, padding included."""
        return self.num_warps * WARP_SIZE

    @cached_property
    def thread_in_block(self) -> np.ndarray:
        return np.arange(self.num_threads) % (self.warps_per_block * WARP_SIZE)

    @cached_property
    def exists(self) -> np.ndarray:
        """False where a thread only pads its block to whole warps."""
        return self.thread_in_block < self.threads_per_block

    @cached_property
    def existing(self) -> np.ndarray:
        """All threads that do not pad, in ascending order."""
        return np.flatnonzero(self.exists)

    @cached_property
    def block_in_group(self) -> np.ndarray:
        return np.arange(self.num_threads) // (self.warps_per_block * WARP_SIZE)

    @cached_property
    def lane(self) -> np.ndarray:
        return np.arange(self.num_threads) % WARP_SIZE

    @cached_property
    def warp(self) -> np.ndarray:
        """Warp in the group."""
        return np.arange(self.num_threads) // WARP_SIZE

    @cached_property
    def warp_in_block(self) -> np.ndarray:
        return self.thread_in_block // WARP_SIZE

    def place(self, thread: int) -> tuple[Extent, Extent]:
        """(block, thread) in the launch of a thread of the group."""
        block = unravel(self.first_block + int(self.block_in_group[thread]), self.grid)
        return block, unravel(int(self.thread_in_block[thread]), self.block)

    def special(self, name: str) -> np.ndarray | int:
        """Value of a special register."""
        base, _, axis = name[1:].partition(".")
        place = "xyz".index(axis) if axis else 0
        if base == "tid":
            return unravel(self.thread_in_block, self.block)[place]
        if base == "ctaid":
            return unravel(self.first_block + self.block_in_group, self.grid)[place]
        if base == "ntid":
            return self.block[place]
        if base == "nctaid":
            return self.grid[place]
        if base.startswith("lanemask"):
            return self._lane_mask(base.removeprefix("lanemask_"))
        return {
            "laneid": self.lane,
            "warpid": self.warp_in_block,
            "nwarpid": self.warps_per_block,
        }[base]

    def _lane_mask(self, comparison: str) -> np.ndarray:
        bit = np.int64(1) << self.lane
        return {
            "eq": bit,
            "lt": bit - 1,
            "le": 2 * bit - 1,
            "ge": (1 << 32) - bit,
            "gt": (1 << 32) - 2 * bit,
        }[comparison]
