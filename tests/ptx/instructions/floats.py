"""Float arithmetic in float32, float64, float16, bfloat16 and pairs of the last two.

Approximate instructions are computed exactly and rounded, but for tanh.approx, whose documented
error of 2^-11 is larger than everything else in a kernel: its result is cut to that precision.
Source: PTX ISA, "Floating Point Instructions" and "Half Precision Floating Point Instructions".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx.float_formats import FORMATS, flush_subnormals, fused_multiply_add
from ptx.instructions.elementwise import (
    Elementwise,
    check_modifiers,
    operand_type,
    unsupported,
)
from ptx.syntax import Instruction

_Function = Callable[..., np.ndarray]
#: what finishes any float instruction
_FINISH = "rn ftz sat relu noftz"


def _meaning(instruction: Instruction, function: _Function, arity: int, known: str) -> Elementwise:
    """Decode, compute, finish by .sat or .relu, encode; .ftz flushes on both ways."""
    kind = operand_type(instruction)
    modifiers = check_modifiers(instruction, f"{_FINISH} {known}")
    form = FORMATS.get(kind.name)
    if form is None:
        raise unsupported(instruction, f"{instruction.opcode} of .{kind.name}")

    def apply(*registers: np.ndarray) -> np.ndarray:
        values = [form.decode(register) for register in registers]
        if "ftz" in modifiers:
            values = [flush_subnormals(value, form.smallest_normal) for value in values]
        result = function(*values)
        if "sat" in modifiers:
            result = np.where(np.isnan(result), result.dtype.type(0), np.clip(result, 0, 1))
        if "relu" in modifiers:
            result = np.maximum(result, result.dtype.type(0))
        if "ftz" in modifiers:
            result = flush_subnormals(result, form.smallest_normal)
        return form.encode(result)

    return Elementwise(apply, (kind,) * arity, kind)


def add(instruction: Instruction) -> Elementwise:
    return _meaning(instruction, np.add, 2, "")


def subtract(instruction: Instruction) -> Elementwise:
    return _meaning(instruction, np.subtract, 2, "")


def multiply(instruction: Instruction) -> Elementwise:
    return _meaning(instruction, np.multiply, 2, "")


def multiply_add(instruction: Instruction) -> Elementwise:
    """fma and mad: one rounding."""
    if operand_type(instruction).name == "f64":
        raise unsupported(instruction, "fused multiply-add of .f64")
    return _meaning(instruction, fused_multiply_add, 3, "")


def divide(instruction: Instruction) -> Elementwise:
    return _meaning(instruction, np.divide, 2, "approx full")


def _ordered(pick: np.ufunc, pick_nan: np.ufunc, zero_is_negative: np.ufunc) -> _Function:
    """min or max: a number wins over NaN unless .NaN, and -0 < +0."""

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        zeros = (a == 0) & (b == 0)
        negative = zero_is_negative(np.signbit(a), np.signbit(b))
        zero = np.where(negative, a.dtype.type(-0.0), a.dtype.type(0.0))
        return np.where(zeros, zero, pick(a, b))

    def function_nan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(a) | np.isnan(b), pick_nan(a, b), function(a, b))

    return lambda *args, keeps_nan: (function_nan if keeps_nan else function)(*args)


_MINIMUM = _ordered(np.fmin, np.minimum, np.logical_or)
_MAXIMUM = _ordered(np.fmax, np.maximum, np.logical_and)


def smaller(instruction: Instruction) -> Elementwise:
    keeps_nan = "NaN" in instruction.modifiers
    return _meaning(instruction, lambda a, b: _MINIMUM(a, b, keeps_nan=keeps_nan), 2, "NaN")


def larger(instruction: Instruction) -> Elementwise:
    keeps_nan = "NaN" in instruction.modifiers
    return _meaning(instruction, lambda a, b: _MAXIMUM(a, b, keeps_nan=keeps_nan), 2, "NaN")


def negate(instruction: Instruction) -> Elementwise:
    return _meaning(instruction, np.negative, 1, "")


def magnitude(instruction: Instruction) -> Elementwise:
    return _meaning(instruction, np.abs, 1, "")


def copy_sign(instruction: Instruction) -> Elementwise:
    """copysign d, a, b: the sign of a with the magnitude of b."""
    return _meaning(instruction, lambda a, b: np.copysign(b, a), 2, "")


def _in_float64(function: _Function) -> Callable[[Instruction], Elementwise]:
    def meaning(instruction: Instruction) -> Elementwise:
        return _meaning(instruction, lambda a: function(a.astype(np.float64)), 1, "approx full")

    return meaning


reciprocal = _in_float64(np.reciprocal)
square_root = _in_float64(np.sqrt)
reciprocal_square_root = _in_float64(lambda a: 1 / np.sqrt(a))
power_of_two = _in_float64(np.exp2)
logarithm_of_two = _in_float64(np.log2)
sine = _in_float64(np.sin)
cosine = _in_float64(np.cos)


def _coarse_tanh(a: np.ndarray) -> np.ndarray:
    """tanh to 11 significant bits: a relative error of at most 2^-11."""
    fraction, exponent = np.frexp(np.tanh(a))
    return np.ldexp(np.round(fraction * 2**11) / 2**11, exponent)


hyperbolic_tangent = _in_float64(_coarse_tanh)
