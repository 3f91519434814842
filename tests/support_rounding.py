"""Exact rounding of fractions to binary floats, the oracle of float instructions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class Format:
    """A binary float format: significand bits with the hidden one, and exponent bits."""

    precision: int
    exponent_bits: int

    @property
    def bias(self) -> int:
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def total_bits(self) -> int:
        return self.precision + self.exponent_bits

    def bits_from_fraction(self, value: Fraction, *, towards_zero: bool = False) -> int:
        """The bits of the nearest float, ties to even, or of the next one towards zero."""
        sign = int(value < 0) << (self.total_bits - 1)
        value = abs(value)
        if value == 0:
            return sign
        exponent = max(_floor_log2(value), 1 - self.bias)
        unit = Fraction(2) ** (exponent - self.precision + 1)
        quotient = value / unit
        steps = int(quotient)
        rest = quotient - steps
        if not towards_zero and (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and steps & 1)):
            steps += 1
        # A carry out of the significand moves into the exponent by itself.
        bits = steps + (exponent + self.bias - 1 << (self.precision - 1))
        infinity = ((1 << self.exponent_bits) - 1) << (self.precision - 1)
        return sign | min(bits, infinity - 1 if towards_zero else infinity)

    def fraction_from_bits(self, bits: int) -> Fraction:
        """The value of finite bits."""
        sign = -1 if bits >> (self.total_bits - 1) else 1
        magnitude = bits & ((1 << (self.total_bits - 1)) - 1)
        exponent, significand = divmod(magnitude, 1 << (self.precision - 1))
        if exponent:
            significand += 1 << (self.precision - 1)
        power = max(exponent, 1) - self.bias - self.precision + 1
        return sign * significand * Fraction(2) ** power

    def random_bits(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Finite floats of every magnitude, subnormal ones and zeros among them."""
        dtype = np.dtype(f"u{self.total_bits // 8}")
        bits = rng.integers(0, 1 << self.total_bits, 2 * count, np.uint64).astype(dtype)
        exponent_mask = (1 << self.exponent_bits) - 1
        finite = (bits >> dtype.type(self.precision - 1) & exponent_mask) != exponent_mask
        chosen = bits[finite][:count]
        chosen[:4] = [0, 1, 1 << (self.total_bits - 1), (1 << (self.precision - 1)) - 1]
        return chosen


def _floor_log2(value: Fraction) -> int:
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    return guess if Fraction(2) ** guess <= value else guess - 1


FORMATS = {
    "f16": Format(11, 5),
    "bf16": Format(8, 8),
    "f32": Format(24, 8),
    "f64": Format(53, 11),
}


def fractions(kind: str, bits: Iterable[int]) -> list[Fraction]:
    """Values of finite bits."""
    return [FORMATS[kind].fraction_from_bits(int(value)) for value in bits]


def rounded(kind: str, values: Iterable[Fraction], *, towards_zero: bool = False) -> np.ndarray:
    """Bits of the floats nearest to some fractions."""
    form = FORMATS[kind]
    bits = [form.bits_from_fraction(value, towards_zero=towards_zero) for value in values]
    return np.array(bits, f"u{form.total_bits // 8}")


def with_sign_of(expected: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Bits with the sign bits of other floats: fractions know no negative zero."""
    negative = source >> source.dtype.type(8 * source.itemsize - 1) != 0
    sign = expected.dtype.type(1 << (8 * expected.itemsize - 1))
    return np.where(negative, expected | sign, expected)
