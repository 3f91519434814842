"""Float formats: bits <-> values wide enough to compute in, with PTX's roundings.

Sums, products, quotients and roots of float16 and bfloat16 are computed in float32, whose 24 bits
are at least twice their precision plus two, so that rounding twice changes nothing. Fused
multiply-add is computed in float64 rounded to odd, which makes the second rounding the only one.
Source: S. Boldo, G. Melquiond, "Emulation of a FMA and Correctly Rounded Sums: Proved Algorithms
Using Rounding to Odd", IEEE Transactions on Computers 57(4), 2008.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FloatFormat:
    """How registers of one type hold floats.

    Attributes:
        decode: register values -> values to compute with.
        encode: computed values of any float dtype -> register values, to nearest even.
        smallest_normal: smaller magnitudes are subnormal.
    """

    decode: Callable[[np.ndarray], np.ndarray]
    encode: Callable[[np.ndarray], np.ndarray]
    smallest_normal: float


def bfloat16_from_float32(values: np.ndarray) -> np.ndarray:
    """float32 -> bits of bfloat16, to nearest even; NaN becomes the canonical one."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FFF), rounded).astype(np.uint16)


def float32_from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_odd_float32(values: np.ndarray) -> np.ndarray:
    """float64 -> float32; inexact results get an odd last bit and can be rounded once more."""
    near = values.astype(np.float32)
    inexact = (near != values) & np.isfinite(near) & np.isfinite(values)
    even = near.view(np.uint32) & np.uint32(1) == 0
    towards = np.where(values > near, np.float32(np.inf), np.float32(-np.inf))
    return np.where(inexact & even, np.nextafter(near, towards), near)


def fused_multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of values of at most 24 bits, as float64 rounded to odd."""
    product = a.astype(np.float64) * b.astype(np.float64)  # exact: 48 bits
    addend = c.astype(np.float64)
    total = product + addend
    # Two-sum: what the rounded total misses.
    back = total - product
    error = (product - (total - back)) + (addend - back)
    even = np.asarray(total).view(np.uint64) & np.uint64(1) == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    inexact = (error != 0) & np.isfinite(total)
    return np.where(inexact & even, np.nextafter(total, towards), total)


def _encode_bfloat16(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.float64:
        values = to_odd_float32(values)
    return bfloat16_from_float32(values)


def _halves(decode: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Decode both halves of 32-bit registers: (n,) -> (n, 2), low half first."""

    def decode_both(words: np.ndarray) -> np.ndarray:
        pairs = np.atleast_1d(np.ascontiguousarray(words))[:, None].view(np.uint16)
        return decode(pairs)

    return decode_both


def _packed(encode: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Encode (n, 2) values into 32-bit registers."""

    def encode_both(values: np.ndarray) -> np.ndarray:
        halves = np.ascontiguousarray(encode(values))
        return halves.view(np.uint32)[:, 0]

    return encode_both


def _decode_float16(bits: np.ndarray) -> np.ndarray:
    return bits.view(np.float16).astype(np.float32)


def _encode_float16(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16)


_SMALLEST_FLOAT16 = float(np.finfo(np.float16).smallest_normal)
_SMALLEST_FLOAT32 = float(np.finfo(np.float32).smallest_normal)
_SMALLEST_FLOAT64 = float(np.finfo(np.float64).smallest_normal)

#: by type name
FORMATS: dict[str, FloatFormat] = {
    "f16": FloatFormat(_decode_float16, _encode_float16, _SMALLEST_FLOAT16),
    "bf16": FloatFormat(float32_from_bfloat16, _encode_bfloat16, _SMALLEST_FLOAT32),
    "f32": FloatFormat(
        lambda bits: bits, lambda values: values.astype(np.float32), _SMALLEST_FLOAT32
    ),
    "f64": FloatFormat(
        lambda bits: bits, lambda values: values.astype(np.float64), _SMALLEST_FLOAT64
    ),
    "f16x2": FloatFormat(_halves(_decode_float16), _packed(_encode_float16), _SMALLEST_FLOAT16),
    "bf16x2": FloatFormat(
        _halves(float32_from_bfloat16), _packed(_encode_bfloat16), _SMALLEST_FLOAT32
    ),
}


def flush_subnormals(values: np.ndarray, smallest_normal: float) -> np.ndarray:
    """Subnormal values -> zero of their sign."""
    subnormal = np.abs(values) < smallest_normal
    return np.where(subnormal, np.copysign(values.dtype.type(0), values), values)
