"""Execution of a group of blocks: which threads run next, branches, barriers and exits.

All threads that stand at the lowest place in the text run together up to the next branch, label or
barrier. Threads that took different ways therefore meet again where their ways join, as long as
the text keeps joins below the ways that lead to them. Where it does not, the part of a warp that
comes first to a warp-wide instruction is held there until the rest has come too.
"""

from __future__ import annotations

import numpy as np

from ptx.barriers import Barriers
from ptx.failures import FailureKind, KernelFailure
from ptx.faults import Fault, NotTogether, first
from ptx.geometry import WARP_SIZE
from ptx.machine import Machine, Mask
from ptx.program import Program, guard_mask
from ptx.syntax import Instruction

#: A group executes no more stretches of code than this.
_MOST_STRETCHES = 50_000


class Execution:
    """One group of blocks on its way through a program."""

    def __init__(self, program: Program, machine: Machine) -> None:
        self.machine = machine
        self.steps = program.steps
        self.stretch_end = list(program.stretch_end)
        self.instructions = program.kernel.instructions
        self.place = np.zeros(machine.num_threads, np.int32)
        self.has_exited = ~machine.geometry.exists
        self.barriers = Barriers(machine.geometry, machine.ordering)
        self.is_held = np.zeros(machine.num_threads, bool)

    def run(self) -> None:
        """Run until all threads have exited.

        Raises:
            KernelFailure: a check failed.
        """
        for _ in range(_MOST_STRETCHES):
            can_run = ~(self.has_exited | self.barriers.is_waiting | self.is_held)
            if can_run.any():
                start = int(self.place[can_run].min())
                running = self._with_held(can_run & (self.place == start))
                self._run_stretch(start, None if running.all() else running)
            elif self.has_exited.all():
                return
            else:
                self._release()
        thread = first(~self.has_exited)
        detail = f"more than {_MOST_STRETCHES} stretches of code"
        fault = Fault(FailureKind.ENDLESS, detail, thread=thread)
        raise self._failure(fault, self.instructions[self.place[thread]])

    def _with_held(self, running: np.ndarray) -> np.ndarray:
        """Let held threads join where others of their warp have come to the same place."""
        if not self.is_held.any():
            return running
        start = self.place[first(running)]
        warps = running.reshape(-1, WARP_SIZE).any(axis=1)
        joining = self.is_held & (self.place == start) & np.repeat(warps, WARP_SIZE)
        self.is_held &= ~joining
        return running | joining

    def _release(self) -> None:
        """Let threads go on from barriers; nobody else can run."""
        try:
            self.barriers.release(self.has_exited, self.place)
        except Fault as fault:
            if self.is_held.any():
                raise self._held_failure() from None
            place = self.place[fault.thread] - 1
            raise self._failure(fault, self.instructions[place]) from None

    def _run_stretch(self, start: int, mask: Mask) -> None:
        if start == len(self.instructions):
            self._exit(mask)
            return
        end = self.stretch_end[start]
        self.machine.statistics.issue(start, end, self._count_warps(mask))
        index = start
        try:
            for index in range(start, end):
                step = self.steps[index]
                if step is not None:
                    step(self.machine, mask)
            self._move(end, mask)
            if self.steps[end - 1] is None:
                self._control(self.instructions[end - 1], mask)
        except NotTogether as fault:
            self.machine.statistics.issue(index, end, -self._count_warps(mask))
            self._hold(start, index, mask, fault)
        except Fault as fault:
            raise self._failure(fault, self.instructions[index]) from None

    def _hold(self, start: int, index: int, mask: Mask, fault: NotTogether) -> None:
        """Stop before an instruction until more of a warp have come; from now on all stop there."""
        self._move(index, mask)
        executing = guard_mask(self.instructions[index], self.machine, mask)
        if executing is not None:  # threads that the predicate excludes need not wait
            there = self.machine.geometry.exists if mask is None else mask
            self._move(index + 1, there & ~executing)
        self.is_held |= fault.waiting
        while start >= 0 and self.stretch_end[start] > index:
            start -= 1
        for earlier in range(start + 1, index):
            self.stretch_end[earlier] = index

    def _held_failure(self) -> KernelFailure:
        """The failure of threads that have waited in vain for the rest of their warp."""
        thread = first(self.is_held)
        same = self.is_held & (self.machine.geometry.warp == thread // WARP_SIZE)
        lanes = [int(lane) for lane in self.machine.geometry.lane[same]]
        detail = f"only lanes {lanes} come to it"
        fault = Fault(FailureKind.DIVERGENT_WARP, detail, thread=thread)
        return self._failure(fault, self.instructions[self.place[thread]])

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
