"""Barriers of a block: who waits at which, and when they may go on.

Every thread of the block must reach a barrier without a thread count, in the same instruction: a
thread that has exited, or that waits elsewhere, makes the barrier divergent. (Hardware would not
wait for exited threads; a kernel that relies on it is called wrong here.)
Source: PTX ISA, "Parallel Synchronization and Communication Instructions: bar, barrier".
"""

from __future__ import annotations

import numpy as np

from ptx.access import reader
from ptx.failures import FailureKind
from ptx.faults import Fault, first
from ptx.geometry import Geometry
from ptx.instructions.elementwise import check_modifiers, unsupported
from ptx.machine import Machine, Mask
from ptx.ordering import Ordering
from ptx.scalar_types import TYPES
from ptx.syntax import Instruction

_WHOLE_BLOCK = 0


class Barriers:
    """Barriers of all blocks of a group."""

    def __init__(self, geometry: Geometry, ordering: Ordering) -> None:
        self.geometry = geometry
        self.ordering = ordering
        count = geometry.num_threads
        self.is_waiting = np.zeros(count, bool)
        self.number = np.zeros(count, np.int64)
        self.needed = np.zeros(count, np.int64)

    def arrive(self, instruction: Instruction, machine: Machine, mask: Mask) -> None:
        """Let the threads of a mask wait.

        Raises:
            UnsupportedPtx: a form of barrier that the emulator does not know.
        """
        check_modifiers(instruction, "sync aligned cta")
        if "sync" not in instruction.modifiers:
            raise unsupported(instruction, "unknown barrier")
        threads = machine.active(mask)
        values = [
            np.broadcast_to(reader(operand, TYPES["u32"])(machine), machine.num_threads)[threads]
            for operand in instruction.operands
        ]
        self.number[threads] = values[0]
        self.needed[threads] = values[1] if len(values) > 1 else _WHOLE_BLOCK
        self.is_waiting[threads] = True

    def release(self, has_exited: np.ndarray, place: np.ndarray) -> None:
        """Let everybody go on whose barrier is complete; called when no thread can run.

        Args:
            has_exited: (num_threads,).
            place: (num_threads,) instruction after the one where each thread waits.
        Raises:
            Fault: no barrier is complete, or one is reached in different instructions.
        """
        released = False
        for block in range(self.geometry.num_blocks):
            inside = self.geometry.block_in_group == block
            waiting = inside & self.is_waiting
            for number in np.unique(self.number[waiting]):
                released |= self._release_one(waiting & (self.number == number), inside, place)
        if not released:
            self._raise_incomplete(has_exited)

    def _release_one(self, waiting: np.ndarray, inside: np.ndarray, place: np.ndarray) -> bool:
        threads = np.flatnonzero(waiting)
        needed = int(self.needed[threads[0]])
        if needed == _WHOLE_BLOCK:
            needed = self.geometry.threads_per_block
        elsewhere = place[threads] != place[threads[0]]
        if elsewhere.any():
            raise Fault(
                FailureKind.DIVERGENT_BARRIER,
                f"{int(elsewhere.sum())} of {len(threads)} threads wait in another instruction",
                thread=int(threads[first(elsewhere)]),
            )
        if len(threads) != needed:
            return False
        self.ordering.synchronise(np.unique(self.geometry.warp[threads]))
        self.is_waiting[threads] = False
        return True

    def _raise_incomplete(self, has_exited: np.ndarray) -> None:
        thread = first(self.is_waiting)
        inside = self.geometry.block_in_group == self.geometry.block_in_group[thread]
        exited = int((inside & has_exited & self.geometry.exists).sum())
        raise Fault(
            FailureKind.DIVERGENT_BARRIER,
            f"{int((inside & self.is_waiting).sum())} threads wait for the others of the block, "
            f"of which {exited} have exited",
            thread=thread,
        )
