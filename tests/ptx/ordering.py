"""Which accesses happen before which: one vector clock per warp.

Each warp counts the barriers that it passes, its own ones too. Its vector clock tells, for every
warp of its block, up to which of that warp's counts everything is known to have happened. An access
is ordered after an earlier one where the earlier one's count is not above what the accessing warp
knows of the earlier warp; otherwise the two race.
Source: C. Flanagan, S. N. Freund, "FastTrack: Efficient and Precise Dynamic Race Detection",
PLDI 2009.

Tensor cores that read shared memory themselves (wgmma) do so by another way than loads and stores,
the async proxy: of writes that happen before they see only those that a fence.proxy.async lies
behind, by the writing warp or by one that the write happens before. What lies behind a fence is
kept as a vector clock too; of a warp's own writes since its last barrier a tick tells, which counts
fences.
Source: PTX ISA, "Async proxy" of "wgmma", "membar / fence".
"""

from __future__ import annotations

import numpy as np

from ptx.geometry import Geometry

_ALWAYS = np.iinfo(np.int32).max


class Ordering:
    """Vector clocks of a group's warps; clock 0 means never.

    Attributes:
        now: (warps of the group,) each warp's own count.
        known: (warps of the group, warps of a block) each warp's vector clock.
        known_to_all: everything up to this count is ordered before all that comes.
        tick: counts fences of the async proxy; a write's tick is that of its time.
        fenced: (warps of the group, warps of a block) of each warp's vector clock what lies before
            a fence that happened before.
        fenced_ticks: (the same) ticks before which the other warp's writes do so.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.warps_per_block = geometry.warps_per_block
        num_warps = geometry.num_warps
        self.now = np.ones(num_warps, np.int32)
        self.known = np.zeros((num_warps, self.warps_per_block), np.int32)
        own = np.arange(num_warps)
        self.known[own, own % self.warps_per_block] = _ALWAYS
        self.known_to_all = 0
        self.tick = 1
        self.fenced = np.zeros_like(self.known)
        self.fenced_ticks = np.zeros(self.known.shape, np.int64)

    def synchronise(self, warps: np.ndarray) -> None:
        """Everything that these warps of one block did so far happens before what they do next."""
        local = warps % self.warps_per_block
        everything = self.known[warps]
        own = np.arange(len(warps))
        everything[own, local] = self.now[warps]
        joined = everything.max(axis=0)
        self.known[warps] = joined
        self.known[warps, local] = _ALWAYS
        self.fenced[warps] = self.fenced[warps].max(axis=0)
        self.fenced_ticks[warps] = self.fenced_ticks[warps].max(axis=0)
        self.advance(warps)
        # A warp knows all of itself, but its lanes only what was before its last barrier.
        self.known_to_all = min(int(self.known.min()), int(self.now.min()) - 1)

    def advance(self, warps: np.ndarray) -> None:
        """What each of these warps did so far happens before what it does itself next."""
        self.now[warps] += 1

    def fence_async_proxy(self, warps: np.ndarray) -> None:
        """What happens before now is seen by the async proxy from now on."""
        local = warps % self.warps_per_block
        seen = self.known[warps]
        seen[np.arange(len(warps)), local] = self.now[warps] - 1
        self.fenced[warps] = np.maximum(self.fenced[warps], seen)
        self.tick += 1
        self.fenced_ticks[warps, local] = self.tick
