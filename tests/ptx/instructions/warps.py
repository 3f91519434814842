"""Exchange between the threads of a warp: shfl, vote, redux, match, activemask, bar.warp.

Source: PTX ISA, "Data Movement: shfl.sync", "Parallel Synchronization and Communication".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx.access import Operation, reader, writer
from ptx.failures import FailureKind
from ptx.faults import Fault, NotTogether, first
from ptx.geometry import WARP_SIZE
from ptx.instructions.elementwise import check_modifiers, operand_type
from ptx.machine import Machine, Mask
from ptx.scalar_types import TYPES
from ptx.syntax import Instruction, Pair

_U32 = TYPES["u32"]
_PRED = TYPES["pred"]


def require_members(machine: Machine, mask: Mask, members: np.ndarray | np.uint32) -> None:
    """Check that all threads named in a member mask execute the instruction, and are named.

    Raises:
        NotTogether: some do not, or not yet.   Fault: a thread is not named.
    """
    exists = machine.geometry.exists
    active = exists if mask is None else mask
    members = np.broadcast_to(members, machine.num_threads)
    named = (members >> machine.geometry.lane.astype(np.uint32) & np.uint32(1)).astype(bool)
    if (active & ~named).any():
        raise Fault(
            FailureKind.DIVERGENT_WARP,
            "a thread executes it that its member mask does not name",
            thread=first(active & ~named),
        )
    if mask is None:
        return
    present = _ballot(active)
    needed = members & _ballot(exists)
    waiting = active & ((needed & ~present) != 0)
    if waiting.any():
        raise NotTogether(waiting)


def require_whole_warps(machine: Machine, mask: Mask) -> None:
    """Check an .aligned instruction: all threads of each warp execute it together."""
    if mask is None:
        return
    require_members(machine, mask, np.uint32(0xFFFFFFFF))
    partial = mask & (_ballot(mask) != np.uint32(0xFFFFFFFF))
    if partial.any():
        raise Fault(
            FailureKind.DIVERGENT_WARP, "the block's last warp is not whole", thread=first(partial)
        )


def _ballot(values: np.ndarray) -> np.ndarray:
    """(num_threads,) bool -> (num_threads,) uint32, bit i that of lane i of the thread's warp."""
    lanes = values.reshape(-1, WARP_SIZE)
    words = np.packbits(lanes, axis=1, bitorder="little").view(np.uint32)
    return np.repeat(words[:, 0], WARP_SIZE)


def shuffle(instruction: Instruction) -> Operation:
    """shfl.sync: read another thread's register; out of the segment, one's own."""
    modifiers = check_modifiers(instruction, "sync up down bfly idx")
    mode = modifiers - {"sync"}
    destination, *sources = instruction.operands
    pair = destination if isinstance(destination, Pair) else None
    write = writer(pair.first if pair else destination, TYPES["b32"])
    write_valid = writer(pair.second, _PRED) if pair else None
    reads = [reader(source, _U32) for source in sources]
    choose = _LANE_CHOICE[next(iter(mode))]

    def operation(machine: Machine, mask: Mask) -> None:
        value, by, clamp, members = (
            np.broadcast_to(read(machine), machine.num_threads) for read in reads
        )
        require_members(machine, mask, members)
        lane = machine.geometry.lane
        by, limit = (by & 31).astype(np.int64), (clamp & 31).astype(np.int64)
        segment = (clamp >> np.uint32(8) & 31).astype(np.int64)
        last = (lane & segment) | (limit & ~segment)
        source = choose(lane, by, segment)
        valid = source >= last if "up" in mode else source <= last
        source = np.where(valid, source, lane)
        place = machine.geometry.warp * WARP_SIZE + source
        _check_sources(machine, mask, place)
        write(machine, value[place], mask)
        if write_valid:
            write_valid(machine, valid, mask)

    return operation


#: (lane, amount, segment) -> source lane
_LANE_CHOICE: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "up": lambda lane, by, segment: lane - by,
    "down": lambda lane, by, segment: lane + by,
    "bfly": lambda lane, by, segment: lane ^ by,
    "idx": lambda lane, by, segment: (lane & segment) | (by & ~segment),
}


def _check_sources(machine: Machine, mask: Mask, place: np.ndarray) -> None:
    active = machine.geometry.exists if mask is None else mask
    absent = active & ~active[place]
    if absent.any():
        thread = first(absent)
        raise Fault(
            FailureKind.DIVERGENT_WARP,
            f"reads lane {int(place[thread]) % WARP_SIZE}, which does not execute it",
            thread=thread,
        )


def vote(instruction: Instruction) -> Operation:
    """vote.sync: all, any, uni or ballot of a predicate over the active members."""
    modifiers = check_modifiers(instruction, "sync all any uni ballot")
    read = reader(instruction.operands[1], _PRED)
    read_members = reader(instruction.operands[2], _U32)
    is_ballot = "ballot" in modifiers
    write = writer(instruction.operands[0], TYPES["b32"] if is_ballot else _PRED)

    def operation(machine: Machine, mask: Mask) -> None:
        require_members(machine, mask, read_members(machine))
        active = machine.geometry.exists if mask is None else mask
        yes = _ballot(active & read(machine))
        present = _ballot(active)
        if is_ballot:
            write(machine, yes, mask)
        elif "all" in modifiers:
            write(machine, yes == present, mask)
        elif "any" in modifiers:
            write(machine, yes != 0, mask)
        else:
            write(machine, (yes == present) | (yes == 0), mask)

    return operation


def active_mask(instruction: Instruction) -> Operation:
    write = writer(instruction.operands[0], TYPES["b32"])

    def operation(machine: Machine, mask: Mask) -> None:
        write(machine, _ballot(machine.geometry.exists if mask is None else mask), mask)

    return operation


_REDUCTIONS: dict[str, tuple[np.ufunc, Callable[[np.dtype], int]]] = {
    "add": (np.add, lambda dtype: 0),
    "min": (np.minimum, lambda dtype: np.iinfo(dtype).max),
    "max": (np.maximum, lambda dtype: np.iinfo(dtype).min),
    "and": (np.bitwise_and, lambda dtype: np.iinfo(dtype).max),
    "or": (np.bitwise_or, lambda dtype: 0),
    "xor": (np.bitwise_xor, lambda dtype: 0),
}


def reduce_warp(instruction: Instruction) -> Operation:
    """redux.sync: one value out of all active members'."""
    kind = operand_type(instruction)
    modifiers = check_modifiers(instruction, "sync add min max and or xor")
    function, neutral = _REDUCTIONS[next(iter(modifiers - {"sync"}))]
    read = reader(instruction.operands[1], kind)
    read_members = reader(instruction.operands[2], _U32)
    write = writer(instruction.operands[0], kind)
    start = kind.dtype.type(neutral(kind.dtype))

    def operation(machine: Machine, mask: Mask) -> None:
        require_members(machine, mask, read_members(machine))
        active = machine.geometry.exists if mask is None else mask
        values = np.where(active, read(machine), start).reshape(-1, WARP_SIZE)
        result = function.reduce(values, axis=1, dtype=kind.dtype)
        write(machine, np.repeat(result, WARP_SIZE), mask)

    return operation


def warp_barrier(instruction: Instruction) -> Operation:
    """bar.warp.sync: what the members did before is seen by all of them after it."""
    read_members = reader(instruction.operands[0], _U32)

    def operation(machine: Machine, mask: Mask) -> None:
        require_members(machine, mask, read_members(machine))
        machine.ordering.advance(np.unique(machine.geometry.warp[machine.active(mask)]))

    return operation
