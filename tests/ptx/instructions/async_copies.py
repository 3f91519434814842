"""cp.async: copies from global to shared memory that run on their own.

Source: PTX ISA, "Data Movement and Conversion Instructions: cp.async".
"""

from __future__ import annotations

import numpy as np

from ptx.access import Operation, Read, address_reader, immediate_value, reader
from ptx.instructions.elementwise import check_modifiers, unsupported
from ptx.instructions.spaces import note_wavefronts
from ptx.machine import Machine, Mask
from ptx.scalar_types import TYPES
from ptx.syntax import Immediate, Instruction, Register

_KNOWN = "async ca cg shared shared::cta global L2::64B L2::128B L2::256B"


def copy(instruction: Instruction) -> Operation:
    """cp.async and the instructions that commit and wait."""
    modifiers = instruction.modifiers
    if modifiers == ("async", "commit_group"):
        return lambda machine, mask: machine.async_groups.commit(machine.active(mask))
    if modifiers == ("async", "wait_all"):
        return _wait_all
    if modifiers == ("async", "wait_group"):
        num_open = _constant(instruction, 0)
        return lambda machine, mask: machine.async_groups.wait(machine.active(mask), num_open)
    check_modifiers(instruction, _KNOWN)
    return _copy(instruction)


def _wait_all(machine: Machine, mask: Mask) -> None:
    threads = machine.active(mask)
    machine.async_groups.commit(threads)
    machine.async_groups.wait(threads, 0)


def _constant(instruction: Instruction, place: int) -> int:
    operand = instruction.operands[place]
    if not isinstance(operand, Immediate):
        raise unsupported(instruction, "a constant is needed")
    return int(immediate_value(operand, TYPES["u32"]))


def _copy(instruction: Instruction) -> Operation:
    """Copy `size` bytes; bytes past the optional source size become zero and are not read."""
    num_bytes = _constant(instruction, 2)
    sizes = (16,) if "cg" in instruction.modifiers else (4, 8, 16)
    if num_bytes not in sizes:
        raise unsupported(instruction, f"copies of {num_bytes} bytes")
    read_target = address_reader(instruction.operands[0])
    read_source = address_reader(instruction.operands[1])
    read_size = _source_size(instruction, num_bytes)

    def operation(machine: Machine, mask: Mask) -> None:
        threads = machine.active(mask)
        targets = read_target(machine)[threads]
        sizes = np.broadcast_to(read_size(machine), machine.num_threads)[threads]
        sources = read_source(machine)[threads]
        note_wavefronts(machine, targets, num_bytes, threads, instruction.index)
        data = _fetch(machine, sources, sizes, num_bytes, threads)
        machine.async_groups.begin(targets, data, threads)

    return operation


def _source_size(instruction: Instruction, num_bytes: int) -> Read:
    """Bytes to read: all, a number, or none where the ignore-src predicate holds."""
    if len(instruction.operands) < 4:
        return lambda _machine: np.asarray(num_bytes)
    operand = instruction.operands[3]
    if isinstance(operand, Register) and operand.type.name == "pred":
        ignored = reader(operand, TYPES["pred"])
        return lambda machine: np.where(ignored(machine), 0, num_bytes)
    read = reader(operand, TYPES["u32"])
    return lambda machine: np.minimum(read(machine).astype(np.int64), num_bytes)


def _fetch(
    machine: Machine, sources: np.ndarray, sizes: np.ndarray, num_bytes: int, threads: np.ndarray
) -> np.ndarray:
    """(n, num_bytes) data; whole copies in one piece, shortened ones byte by byte."""
    data = np.zeros((len(threads), num_bytes), np.uint8)
    whole = np.flatnonzero(sizes == num_bytes)
    word = TYPES["u32"]
    if len(whole):
        words = machine.global_memory.load(sources[whole], word, num_bytes // 4, threads[whole])
        data[whole] = np.stack(words, axis=1).view(np.uint8)
    for size in np.unique(sizes):
        if 0 < size < num_bytes:
            some = np.flatnonzero(sizes == size)
            for place in range(size):
                part = sources[some] + np.uint64(place)
                data[some, place] = machine.global_memory.load(part, TYPES["u8"], 1, threads[some])[
                    0
                ]
    return data
