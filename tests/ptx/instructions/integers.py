"""Integer arithmetic.

Source: PTX ISA, "Integer Arithmetic Instructions" and "Extended-Precision Integer Arithmetic".
"""

from __future__ import annotations

import numpy as np

from ptx.access import Operation, reader, writer
from ptx.instructions.elementwise import (
    Elementwise,
    check_modifiers,
    operand_type,
    unsupported,
)
from ptx.machine import Machine, Mask
from ptx.scalar_types import TYPES, ScalarType, wider
from ptx.syntax import Instruction


def add(instruction: Instruction) -> Elementwise:
    return _sum(instruction, np.add)


def subtract(instruction: Instruction) -> Elementwise:
    return _sum(instruction, np.subtract)


def _sum(instruction: Instruction, function: np.ufunc) -> Elementwise:
    kind = operand_type(instruction)
    if "sat" not in check_modifiers(instruction, "sat"):
        return Elementwise(function, (kind, kind), kind)
    limits = np.iinfo(np.int32)

    def saturated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        wide = function(a.astype(np.int64), b.astype(np.int64))
        return np.clip(wide, limits.min, limits.max).astype(np.int32)

    return Elementwise(saturated, (kind, kind), kind)


def high_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Upper half of the product of two integers of one type."""
    bits = 8 * a.dtype.itemsize
    if bits < 64:
        wide = np.int64 if a.dtype.kind == "i" else np.uint64
        return ((a.astype(wide) * b.astype(wide)) >> wide(bits)).astype(a.dtype)
    low_bits, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = a.view(np.uint64), b.view(np.uint64)
    x0, x1, y0, y1 = x & low_bits, x >> half, y & low_bits, y >> half
    middle = x1 * y0 + (x0 * y0 >> half)
    high = x1 * y1 + (middle >> half) + (x0 * y1 + (middle & low_bits) >> half)
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return high.view(a.dtype)


def multiply(instruction: Instruction) -> Elementwise:
    kind = operand_type(instruction)
    modifiers = check_modifiers(instruction, "lo hi wide")
    if "wide" in modifiers:
        wide = wider(kind)
        return Elementwise(
            lambda a, b: a.astype(wide.dtype) * b.astype(wide.dtype), (kind, kind), wide
        )
    return Elementwise(high_product if "hi" in modifiers else np.multiply, (kind, kind), kind)


def multiply_add(instruction: Instruction) -> Elementwise:
    kind = operand_type(instruction)
    modifiers = check_modifiers(instruction, "lo hi wide")
    if "wide" in modifiers:
        wide = wider(kind)
        return Elementwise(
            lambda a, b, c: a.astype(wide.dtype) * b.astype(wide.dtype) + c,
            (kind, kind, wide),
            wide,
        )
    product = high_product if "hi" in modifiers else np.multiply
    return Elementwise(lambda a, b, c: product(a, b) + c, (kind, kind, kind), kind)


def _truncated_quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b towards zero; all bits set where b is 0, as GPUs give."""
    divisor = np.where(b == 0, b.dtype.type(1), b)
    quotient = a // divisor
    away = (a - quotient * divisor != 0) & ((a < 0) != (divisor < 0))
    all_bits = ~b.dtype.type(0)
    return np.where(b == 0, all_bits, quotient + away.astype(a.dtype))


def divide(instruction: Instruction) -> Elementwise:
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    return Elementwise(_truncated_quotient, (kind, kind), kind)


def remainder(instruction: Instruction) -> Elementwise:
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    return Elementwise(lambda a, b: a - _truncated_quotient(a, b) * b, (kind, kind), kind)


def smaller(instruction: Instruction) -> Elementwise:
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    return Elementwise(np.minimum, (kind, kind), kind)


def larger(instruction: Instruction) -> Elementwise:
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    return Elementwise(np.maximum, (kind, kind), kind)


def negate(instruction: Instruction) -> Elementwise:
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    return Elementwise(np.negative, (kind,), kind)


def magnitude(instruction: Instruction) -> Elementwise:
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    return Elementwise(np.abs, (kind,), kind)


def sum_of_absolute_differences(instruction: Instruction) -> Elementwise:
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    return Elementwise(lambda a, b, c: c + np.where(a < b, b - a, a - b), (kind, kind, kind), kind)


def four_way_dot(instruction: Instruction) -> Elementwise:
    """dp4a: four products of bytes added to a 32-bit sum."""
    check_modifiers(instruction, "")
    names = [modifier for modifier in instruction.modifiers if modifier in TYPES]
    byte = {"u32": np.uint8, "s32": np.int8}
    if len(names) != 2 or not set(names) <= byte.keys():
        raise unsupported(instruction, "unknown types of dp4a")
    result = TYPES["s32" if "s32" in names else "u32"]

    def dot(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        left = _bytes(a, byte[names[0]])
        right = _bytes(b, byte[names[1]])
        return (c.astype(np.int64) + (left * right).sum(axis=-1)).astype(result.dtype)

    return Elementwise(dot, (TYPES["b32"], TYPES["b32"], result), result)


def _bytes(words: np.ndarray, dtype: type) -> np.ndarray:
    return np.atleast_1d(np.ascontiguousarray(words))[:, None].view(dtype).astype(np.int64)


def add_with_carry(instruction: Instruction) -> Operation:
    """add.cc, addc, sub.cc, subc: the carry flag links the words of a long number."""
    kind = operand_type(instruction)
    unsigned = TYPES[f"u{kind.num_bits}"]
    modifiers = check_modifiers(instruction, "cc")
    subtracts = instruction.opcode.startswith("sub")
    takes_carry = instruction.opcode.endswith("c")
    reads = [reader(operand, unsigned) for operand in instruction.operands[1:]]
    write = writer(instruction.operands[0], unsigned)

    def operation(machine: Machine, mask: Mask) -> None:
        a, b = (read(machine) for read in reads)
        carry = machine.carry if takes_carry else np.zeros(machine.num_threads, bool)
        value, out = _chained(a, b, carry, unsigned, subtracts=subtracts)
        write(machine, value, mask)
        if "cc" in modifiers:
            machine.carry = out if mask is None else np.where(mask, out, machine.carry)

    return operation


def _chained(
    a: np.ndarray, b: np.ndarray, carry: np.ndarray, kind: ScalarType, *, subtracts: bool
) -> tuple[np.ndarray, np.ndarray]:
    """a + b + carry or a - b - carry, and the carry or borrow out of it."""
    one = carry.astype(kind.dtype)
    if subtracts:
        first = a - b
        return first - one, (a < b) | (first < one)
    first = a + b
    value = first + one
    return value, (first < a) | (value < first)
