"""Execution of a group of blocks: which threads run next, branches, barriers and exits.

All threads that stand at the lowest place in the text run together up to the next branch, label or
barrier. Threads that took different ways therefore meet again where their ways join, as long as
the text keeps joins below the ways that lead to them, which compilers do.
"""

from __future__ import annotations

import numpy as np

from ptx.barriers import Barriers
from ptx.failures import FailureKind, KernelFailure
from ptx.faults import Fault, first
from ptx.geometry import WARP_SIZE
from ptx.machine import Machine, Mask
from ptx.program import Program, guard_mask
from ptx.syntax import Instruction

#: A stretch of instructions is executed no more often than this by one group.
_MOST_STRETCHES = 2_000_000


class Execution:
    """One group of blocks on its way through a program."""

    def __init__(self, program: Program, machine: Machine) -> None:
        self.program = program
        self.machine = machine
        self.place = np.zeros(machine.num_threads, np.int32)
        self.has_exited = ~machine.geometry.exists
        self.barriers = Barriers(machine.geometry, machine_ordering(machine))
        self.instructions = program.kernel.instructions

    def run(self) -> None:
        """Run until all threads have exited.

        Raises:
            KernelFailure: a check failed.
        """
        for _ in range(_MOST_STRETCHES):
            can_run = ~(self.has_exited | self.barriers.is_waiting)
            if not can_run.any():
                if self.has_exited.all():
                    return
                self._release()
                continue
            start = int(self.place[can_run].min())
            running = can_run & (self.place == start)
            self._run_stretch(start, None if running.all() else running)
        last = self.instructions[int(self.place.min())]
        fault = Fault(
            FailureKind.ENDLESS, f"more than {_MOST_STRETCHES} stretches of code", thread=0
        )
        raise self._failure(fault, last)

    def _release(self) -> None:
        try:
            self.barriers.release(self.has_exited, self.place)
        except Fault as fault:
            raise self._failure(fault, self.instructions[self.place[fault.thread] - 1]) from None

    def _run_stretch(self, start: int, mask: Mask) -> None:
        if start == len(self.instructions):
            self._exit(mask)
            return
        end = self.program.stretch_end[start]
        self.machine.statistics.issue(start, end, self._count_warps(mask))
        index = start
        steps = self.program.steps
        try:
            for index in range(start, end):
                step = steps[index]
                if step is not None:
                    step(self.machine, mask)
            self._move(end, mask)
            if steps[end - 1] is None:
                self._control(self.instructions[end - 1], mask)
        except Fault as fault:
            raise self._failure(fault, self.instructions[index]) from None

    def _count_warps(self, mask: Mask) -> int:
        if mask is None:
            return self.machine.geometry.num_warps
        return int(mask.reshape(-1, WARP_SIZE).any(axis=1).sum())

    def _move(self, place: int, mask: Mask) -> None:
        if mask is None:
            self.place[:] = place
        else:
            self.place[mask] = place

    def _exit(self, mask: Mask) -> None:
        if mask is None:
            self.has_exited[:] = True
        else:
            self.has_exited |= mask

    def _control(self, instruction: Instruction, mask: Mask) -> None:
        mask = guard_mask(instruction, self.machine, mask)
        if mask is not None and not mask.any():
            return
        if instruction.opcode == "bra":
            self._move(instruction.target, mask)
        elif instruction.opcode in ("ret", "exit"):
            self._exit(mask)
        elif instruction.opcode == "trap":
            thread = 0 if mask is None else first(mask)
            raise Fault(FailureKind.TRAP, "the kernel stops itself", thread=thread)
        else:
            self.barriers.arrive(instruction, self.machine, mask)

    def _failure(self, fault: Fault, instruction: Instruction) -> KernelFailure:
        block, thread = self.machine.geometry.place(fault.thread)
        return KernelFailure(
            fault.kind,
            detail=fault.detail,
            line=instruction.line,
            text=instruction.text,
            block=block,
            thread=thread,
        )


def machine_ordering(machine: Machine):
    """The vector clocks that the machine's memories check against."""
    return machine.shared.ordering
