"""What a launch did: issued instructions and shared-memory wavefronts, by instruction and loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ptx.syntax import Instruction


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Instructions first..last, closed by a branch back from `last` to `first`."""

    first: int
    last: int

    def __contains__(self, index: int) -> bool:
        return self.first <= index <= self.last


@dataclass(frozen=True, kw_only=True)
class Wavefronts:
    """Passes of the shared-memory banks, and the least that could be."""

    found: int
    least: int

    @property
    def conflicts(self) -> int:
        """Passes that other addresses would have saved."""
        return self.found - self.least


@dataclass(frozen=True, kw_only=True)
class Report:
    """Counts of a whole launch; all of them by warp.

    Attributes:
        instructions: the kernel's instructions.
        issued: (len(instructions),) how often warps issued each, predicated off or not.
        found_wavefronts, least_wavefronts: (len(instructions),) shared-memory passes.
        loops: all loops, outer ones before the loops inside them.
    """

    instructions: tuple[Instruction, ...]
    issued: np.ndarray
    found_wavefronts: np.ndarray
    least_wavefronts: np.ndarray
    loops: tuple[Loop, ...]

    def count(self, mnemonic: str = "", within: Loop | None = None) -> int:
        """Warps that issued instructions whose text starts with `mnemonic`, e.g. "ld.shared"."""
        return sum(int(self.issued[i.index]) for i in self._chosen(mnemonic, within))

    def opcode_counts(self, within: Loop | None = None) -> Counter[str]:
        """Issued warps by opcode."""
        counts: Counter[str] = Counter()
        for instruction in self._chosen("", within):
            counts[instruction.opcode] += int(self.issued[instruction.index])
        return counts

    def wavefronts(self, mnemonic: str = "", within: Loop | None = None) -> Wavefronts:
        """Shared-memory wavefronts of instructions whose text starts with `mnemonic`."""
        indices = [i.index for i in self._chosen(mnemonic, within)]
        return Wavefronts(
            found=int(self.found_wavefronts[indices].sum()),
            least=int(self.least_wavefronts[indices].sum()),
        )

    def main_loop(self, opcode: str = "mma") -> Loop:
        """The innermost loop among those in which most of an opcode's issues happen.

        Raises:
            ValueError: no loop contains the opcode.
        """
        counted = [(self.opcode_counts(loop)[opcode], loop) for loop in self.loops]
        most = max((count for count, _ in counted), default=0)
        if most == 0:
            raise ValueError(f"no loop executed {opcode}; the kernel has {len(self.loops)} loops")
        return min(
            (loop for count, loop in counted if count == most),
            key=lambda loop: loop.last - loop.first,
        )

    def _chosen(self, mnemonic: str, within: Loop | None) -> Iterator[Instruction]:
        for instruction in self.instructions:
            if within is None or instruction.index in within:
                if _mnemonic(instruction).startswith(mnemonic):
                    yield instruction


def _mnemonic(instruction: Instruction) -> str:
    return ".".join((instruction.opcode, *instruction.modifiers))


def find_loops(instructions: tuple[Instruction, ...]) -> tuple[Loop, ...]:
    """Loops closed by branches back; of those with the same start the longest one."""
    last: dict[int, int] = {}
    for instruction in instructions:
        if instruction.target is not None and instruction.target <= instruction.index:
            last[instruction.target] = instruction.index
    return tuple(Loop(first=first, last=last[first]) for first in sorted(last))
