"""Counters that fill while a kernel executes, one entry per instruction."""

from __future__ import annotations

import numpy as np


class Statistics:
    """Issued warps and shared-memory wavefronts of each instruction of a kernel."""

    def __init__(self, num_instructions: int) -> None:
        self.issued = np.zeros(num_instructions, np.int64)
        self.wavefronts = np.zeros(num_instructions, np.int64)
        self.least_wavefronts = np.zeros(num_instructions, np.int64)

    def issue(self, first: int, end: int, num_warps: int) -> None:
        """Count instructions first..end - 1 as issued once by each of some warps."""
        self.issued[first:end] += num_warps

    def add_wavefronts(self, index: int, found: int, least: int) -> None:
        """Count shared-memory wavefronts of an instruction, and how few would do."""
        self.wavefronts[index] += found
        self.least_wavefronts[index] += least
