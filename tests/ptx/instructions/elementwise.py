"""Instructions that compute each thread's result from that thread's operands alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ptx.access import Operation, reader, writer
from ptx.failures import UnsupportedPtx
from ptx.machine import Machine, Mask
from ptx.scalar_types import TYPES, ScalarType, last_type
from ptx.syntax import Instruction


class Elementwise(NamedTuple):
    """What an instruction computes: function(*sources) -> result, on arrays or single values."""

    function: Callable[..., np.ndarray]
    sources: tuple[ScalarType, ...]
    result: ScalarType


def compile_elementwise(instruction: Instruction, meaning: Elementwise) -> Operation:
    """An operation that applies a function to whole registers.

    Raises:
        UnsupportedPtx: the number of operands is not that of the function.
    """
    function, sources, result = meaning
    operands = instruction.operands[1:]
    if len(operands) != len(sources):
        raise unsupported(instruction, f"{len(operands)} sources, needed {len(sources)}")
    reads = [reader(operand, kind) for operand, kind in zip(operands, sources, strict=True)]
    write = writer(instruction.operands[0], result)

    def operation(machine: Machine, mask: Mask) -> None:
        write(machine, function(*[read(machine) for read in reads]), mask)

    return operation


def unsupported(instruction: Instruction, problem: str) -> UnsupportedPtx:
    """An error that names the instruction and its line."""
    return UnsupportedPtx(problem, line=instruction.line, text=instruction.text)


def check_modifiers(instruction: Instruction, known: str) -> frozenset[str]:
    """The instruction's modifiers without its types.

    Args:
        known: the modifiers that its meaning takes account of, separated by spaces.
    Raises:
        UnsupportedPtx: it has another one.
    """
    found = frozenset(instruction.modifiers) - TYPES.keys()
    unknown = sorted(found - set(known.split()))
    if unknown:
        raise unsupported(instruction, f"unknown modifier .{unknown[0]} of {instruction.opcode}")
    return found


def operand_type(instruction: Instruction) -> ScalarType:
    """The type that the instruction names last.

    Raises:
        UnsupportedPtx: it names none.
    """
    found = last_type(instruction.modifiers)
    if found is None:
        raise unsupported(instruction, "no type that the emulator knows")
    return found
