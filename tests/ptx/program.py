"""A kernel compiled to operations, in stretches that threads walk through without a choice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ptx.access import Operation, source_slots
from ptx.failures import FailureKind
from ptx.faults import Fault, first
from ptx.instructions import CONTROL, WITHOUT_DESTINATION, compile_instruction
from ptx.instructions.warpgroups import product_slots
from ptx.machine import Machine, Mask
from ptx.parser import parse_kernel
from ptx.scalar_types import last_type
from ptx.syntax import Instruction, Kernel


@dataclass(frozen=True)
class Program:
    """A kernel ready to run.

    Attributes:
        steps: one per instruction; None where execution itself acts.
        stretch_end: for each instruction, the index after the last one that follows it without a
            branch, a label or a barrier between them; a control instruction ends its stretch.
        granule: smallest width in bytes of its accesses to shared memory.
    """

    kernel: Kernel
    steps: tuple[Operation | None, ...]
    stretch_end: tuple[int, ...]
    granule: int


@lru_cache(maxsize=64)
def compile_program(ptx: str, name: str) -> Program:
    """Parse and compile one kernel; the last programs are kept.

    Raises:
        UnsupportedPtx: a statement or instruction that the emulator does not know.
    """
    kernel = parse_kernel(ptx, name)
    watched = product_slots(kernel.instructions)
    steps = tuple(
        None if is_control(instruction) else _step(instruction, watched)
        for instruction in kernel.instructions
    )
    return Program(kernel, steps, _stretch_ends(kernel), _granule(kernel))


def is_control(instruction: Instruction) -> bool:
    """Whether the instruction changes where threads are or whether they run."""
    return instruction.opcode in CONTROL and instruction.modifiers[:1] != ("warp",)


def guard_mask(instruction: Instruction, machine: Machine, mask: Mask) -> Mask:
    """The threads of a mask for which the instruction's predicate holds; None for all."""
    if instruction.guard is None:
        return mask
    check_defined(machine, mask, (instruction.guard.slot,))
    holds = machine.registers[instruction.guard.slot]
    if instruction.guard_negated:
        holds = ~holds
    if mask is not None:
        return holds & mask
    return None if holds.all() else holds


def check_defined(machine: Machine, mask: Mask, slots: tuple[int, ...]) -> None:
    """Check that registers were written by every thread that reads them.

    Raises:
        Fault: one was not.
    """
    undefined = machine.undefined
    if not undefined or undefined.keys().isdisjoint(slots):
        return
    for slot in slots:
        if slot in undefined:
            missing = undefined[slot] if mask is None else undefined[slot] & mask
            if missing.any():
                raise Fault(
                    FailureKind.UNINITIALISED_REGISTER,
                    "a register is read that was never written",
                    thread=first(missing),
                )


def _step(instruction: Instruction, watched: frozenset[int]) -> Operation:
    operation = compile_instruction(instruction)
    touched = watched.intersection(source_slots(instruction.operands))
    if touched and instruction.opcode != "wgmma":
        operation = _touching(operation, tuple(touched))
    has_destination = instruction.opcode not in WITHOUT_DESTINATION
    slots = source_slots(instruction.operands[1:] if has_destination else instruction.operands)
    if instruction.guard is None:

        def plain(machine: Machine, mask: Mask) -> None:
            check_defined(machine, mask, slots)
            operation(machine, mask)

        return plain

    def guarded(machine: Machine, mask: Mask) -> None:
        mask = guard_mask(instruction, machine, mask)
        if mask is None or mask.any():
            check_defined(machine, mask, slots)
            operation(machine, mask)

    return guarded


def _touching(operation: Operation, slots: tuple[int, ...]) -> Operation:
    """The operation of an instruction that reads or writes registers of a wgmma."""

    def watching(machine: Machine, mask: Mask) -> None:
        machine.products.touch(slots, machine.warps(mask))
        operation(machine, mask)

    return watching


def _stretch_ends(kernel: Kernel) -> tuple[int, ...]:
    count = len(kernel.instructions)
    cuts = {count}
    for instruction in kernel.instructions:
        if is_control(instruction):
            cuts.add(instruction.index + 1)
        if instruction.target is not None:
            cuts.add(instruction.target)
    ends = np.full(count, count)
    end = count
    for index in reversed(range(count)):
        if index + 1 in cuts:
            end = index + 1
        ends[index] = end
    return tuple(int(end) for end in ends)


def _granule(kernel: Kernel) -> int:
    widths = [16]
    for instruction in kernel.instructions:
        space = set(instruction.modifiers) & {"global", "param", "const", "local"}
        if instruction.opcode in ("ld", "st", "atom", "red") and not space:
            kind = last_type(instruction.modifiers)
            widths.append(kind.num_bytes if kind else 1)
        elif instruction.opcode == "cp":
            widths.append(4)
    return min(widths)
