"""Logic, shifts and bit fields.

Source: PTX ISA, "Logic and Shift Instructions" and the bit instructions of "Integer Arithmetic".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx.instructions.elementwise import (
    Elementwise,
    check_modifiers,
    operand_type,
    unsupported,
)
from ptx.scalar_types import TYPES
from ptx.syntax import Immediate, Instruction

_U32 = TYPES["u32"]


def _logic(function: np.ufunc) -> Callable[[Instruction], Elementwise]:
    def meaning(instruction: Instruction) -> Elementwise:
        kind = operand_type(instruction)
        check_modifiers(instruction, "")
        return Elementwise(function, (kind,) * function.nin, kind)

    return meaning


both = _logic(np.bitwise_and)
either = _logic(np.bitwise_or)
exclusive = _logic(np.bitwise_xor)
invert = _logic(np.invert)


def logical_not(instruction: Instruction) -> Elementwise:
    """cnot: 1 where the source is 0, else 0."""
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    return Elementwise(lambda a: (a == 0).astype(kind.dtype), (kind,), kind)


def three_input_logic(instruction: Instruction) -> Elementwise:
    """lop3: any function of three bits, given by its truth table."""
    check_modifiers(instruction, "")
    table = instruction.operands[-1]
    if not isinstance(table, Immediate):
        raise unsupported(instruction, "lop3 needs a constant truth table")
    terms = [place for place in range(8) if table.value >> place & 1]

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray, _table: np.ndarray) -> np.ndarray:
        result = np.zeros_like(a | b | c)
        for term in terms:
            result = result | (
                (a if term & 4 else ~a) & (b if term & 2 else ~b) & (c if term & 1 else ~c)
            )
        return result

    kind = TYPES["b32"]
    return Elementwise(function, (kind, kind, kind, _U32), kind)


def shift_left(instruction: Instruction) -> Elementwise:
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    return Elementwise(_shift_left, (kind, _U32), kind)


def _shift_left(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    width = 8 * a.dtype.itemsize
    shifted = a << np.minimum(by, width - 1).astype(a.dtype)
    return np.where(by < width, shifted, a.dtype.type(0))


def shift_right(instruction: Instruction) -> Elementwise:
    """Arithmetic for signed types: amounts beyond the width leave only the sign."""
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    return Elementwise(_shift_right, (kind, _U32), kind)


def _shift_right(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    width = 8 * a.dtype.itemsize
    shifted = a >> np.minimum(by, width - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(by < width, shifted, a.dtype.type(0))


def funnel_shift(instruction: Instruction) -> Elementwise:
    """shf: 32 bits out of the 64 of (high, low), shifted by at most 32 or modulo 32."""
    modifiers = check_modifiers(instruction, "l r wrap clamp")

    def function(low: np.ndarray, high: np.ndarray, by: np.ndarray) -> np.ndarray:
        amount = (by & 31 if "wrap" in modifiers else np.minimum(by, 32)).astype(np.uint64)
        both_words = high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)
        if "l" in modifiers:
            return (both_words << amount >> np.uint64(32)).astype(np.uint32)
        return (both_words >> amount).astype(np.uint32)

    return Elementwise(function, (_U32, _U32, _U32), _U32)


def extract_field(instruction: Instruction) -> Elementwise:
    """bfe: bits of a field; signed types repeat the field's uppermost bit, or the source's sign
    where the field reaches beyond it."""
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    width = kind.num_bits

    def function(a: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        start, length = (start & 0xFF).astype(np.int64), (length & 0xFF).astype(np.int64)
        bits = a.view(kind.bits_dtype) if a.dtype != kind.bits_dtype else a
        low = _shift_right(bits, start)
        kept = low & ~_shift_left(np.full_like(bits, ~bits.dtype.type(0)), length)
        if not kind.is_signed:
            return kept
        top = np.minimum(start + length - 1, width - 1)
        sign = (_shift_right(bits, np.maximum(top, 0)) & 1).astype(bool) & (length > 0)
        fill = _shift_left(np.full_like(bits, ~bits.dtype.type(0)), length)
        # Where the field reaches beyond the source, its missing bits are sign bits too.
        missing = _shift_left(np.full_like(bits, ~bits.dtype.type(0)), np.maximum(width - start, 0))
        return np.where(sign, kept | fill | missing, kept).view(kind.dtype)

    return Elementwise(function, (kind, _U32, _U32), kind)


def insert_field(instruction: Instruction) -> Elementwise:
    """bfi: the low bits of a put into b."""
    kind = operand_type(instruction)
    check_modifiers(instruction, "")

    def function(a: np.ndarray, b: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        start, length = start & 0xFF, length & 0xFF
        ones = np.full(np.broadcast_shapes(a.shape, b.shape, start.shape), ~a.dtype.type(0))
        field = _shift_left(~_shift_left(ones, length), start)
        return (b & ~field) | (_shift_left(a, start) & field)

    return Elementwise(function, (kind, kind, _U32, _U32), kind)


def permute_bytes(instruction: Instruction) -> Elementwise:
    """prmt: four bytes chosen out of eight; selector bit 3 repeats the byte's sign instead."""
    check_modifiers(instruction, "")

    def function(a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
        source = b.astype(np.uint64) << np.uint64(32) | a.astype(np.uint64)
        result = np.zeros(np.broadcast_shapes(source.shape, selector.shape), np.uint32)
        for place in range(4):
            choice = (selector >> np.uint32(4 * place)) & np.uint32(15)
            byte = (source >> (8 * (choice & 7)).astype(np.uint64)).astype(np.uint32) & 0xFF
            sign = np.where(byte >> 7, np.uint32(0xFF), np.uint32(0))
            result = result | np.where(choice & 8, sign, byte) << np.uint32(8 * place)
        return result

    return Elementwise(function, (_U32, _U32, _U32), _U32)


def count_ones(instruction: Instruction) -> Elementwise:
    check_modifiers(instruction, "")
    return Elementwise(
        lambda a: np.bitwise_count(a).astype(np.uint32), (operand_type(instruction),), _U32
    )


def count_leading_zeros(instruction: Instruction) -> Elementwise:
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    return Elementwise(
        lambda a: np.uint32(kind.num_bits) - _bit_length(a, kind.num_bits), (kind,), _U32
    )


def _bit_length(a: np.ndarray, width: int) -> np.ndarray:
    """Place of the uppermost one, from 1; 0 for 0."""
    filled = a
    for step in (1, 2, 4, 8, 16, 32):
        if step < width:
            filled = filled | filled >> a.dtype.type(step)
    return np.bitwise_count(filled).astype(np.uint32)


def find_uppermost(instruction: Instruction) -> Elementwise:
    """bfind: place of the uppermost bit that differs from the sign; all ones if there is none."""
    kind = operand_type(instruction)
    modifiers = check_modifiers(instruction, "shiftamt")

    def function(a: np.ndarray) -> np.ndarray:
        bits = np.where(a < 0, ~a, a).view(kind.bits_dtype) if kind.is_signed else a
        place = _bit_length(bits, kind.num_bits) - np.uint32(1)
        if "shiftamt" not in modifiers:
            return place
        return np.where(bits == 0, place, np.uint32(kind.num_bits - 1) - place)

    return Elementwise(function, (kind,), _U32)


def reverse_bits(instruction: Instruction) -> Elementwise:
    kind = operand_type(instruction)
    check_modifiers(instruction, "")

    def function(a: np.ndarray) -> np.ndarray:
        result = np.zeros_like(a)
        for place in range(kind.num_bits):
            bit = a >> a.dtype.type(place) & a.dtype.type(1)
            result = result | bit << a.dtype.type(kind.num_bits - 1 - place)
        return result

    return Elementwise(function, (kind,), kind)
