"""cvt against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from ptx import UnsupportedPtx
from ptx.scalar_types import TYPES
from support_ptx import edges, evaluate
from support_rounding import FORMATS, fractions, rounded, with_sign_of

FLOATS = ["f16", "bf16", "f32"]
COUNT = 600


def random_floats(kind: str, seed: int) -> np.ndarray:
    return FORMATS[kind].random_bits(np.random.default_rng(seed), COUNT)


@pytest.mark.parametrize("target", ["f16", "bf16"])
@pytest.mark.parametrize("mode", ["rn", "rz"])
def test_narrowing(target, mode):
    bits = random_floats("f32", seed=1)
    # Around the halfway points of the target, where the rounding is decided.
    step = 13 if target == "f16" else 16
    bits[100:400] = np.uint32(0x3F800000) + (np.arange(300, dtype=np.uint32) << np.uint32(step - 2))
    bits[400:500] |= np.uint32(1)
    expected = rounded(target, fractions("f32", bits), towards_zero=mode == "rz")
    found = evaluate(f"cvt.{mode}.{target}.f32 %d, %a;", target, [("f32", bits.view(np.float32))])
    np.testing.assert_array_equal(found.view(np.uint16), with_sign_of(expected, bits))


@pytest.mark.parametrize("pair", ["f16x2", "bf16x2"])
@pytest.mark.parametrize("mode", ["rn", "rz"])
def test_narrowing_of_pairs_puts_the_first_source_on_top(pair, mode):
    single = pair.removesuffix("x2")
    upper, lower = random_floats("f32", seed=2), random_floats("f32", seed=3)
    found = evaluate(
        f"cvt.{mode}.{pair}.f32 %d, %a, %b;",
        "b32",
        [("f32", upper.view(np.float32)), ("f32", lower.view(np.float32))],
    )
    for shift, bits in ((16, upper), (0, lower)):
        expected = rounded(single, fractions("f32", bits), towards_zero=mode == "rz")
        half = (found >> np.uint32(shift)).astype(np.uint16)
        np.testing.assert_array_equal(half, with_sign_of(expected, bits))


@pytest.mark.parametrize("source", ["f16", "bf16"])
def test_widening_is_exact(source):
    bits = random_floats(source, seed=4)
    found = evaluate(f"cvt.f32.{source} %d, %a;", "f32", [(source, bits.view(TYPES[source].dtype))])
    expected = with_sign_of(rounded("f32", fractions(source, bits)), bits)
    np.testing.assert_array_equal(found.view(np.uint32), expected)


@pytest.mark.parametrize("target", ["f16", "bf16"])
def test_not_a_number_stays_one(target):
    values = np.array([np.nan, -np.nan, np.inf, -np.inf], np.float32)
    found = evaluate(f"cvt.rn.{target}.f32 %d, %a;", target, [("f32", values)])
    back = evaluate(f"cvt.f32.{target} %d, %a;", "f32", [(target, found)])
    np.testing.assert_array_equal(back, values)


ROUND = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


@pytest.mark.parametrize("target", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("mode", ROUND)
@pytest.mark.parametrize("source", ["f32", "f16"])
def test_float_to_integer_stops_at_the_range(target, mode, source):
    bits = random_floats(source, seed=5)
    near = rounded(source, [Fraction(n, 4) for n in range(-600, 600)])
    bits[50:] = near[: COUNT - 50] if target[0] == "s" else near[COUNT + 50 - 50 :][: COUNT - 50]
    limits = np.iinfo(TYPES[target].dtype)
    exact = [ROUND[mode](value) for value in fractions(source, bits)]
    expected = [min(max(value, limits.min), limits.max) for value in exact]
    found = evaluate(
        f"cvt.{mode}.{target}.{source} %d, %a;", target, [(source, bits.view(TYPES[source].dtype))]
    )
    assert [int(value) for value in found] == expected


def test_not_a_number_becomes_zero():
    values = np.array([np.nan, np.inf, -np.inf], np.float32)
    found = evaluate("cvt.rni.s32.f32 %d, %a;", "s32", [("f32", values)])
    np.testing.assert_array_equal(found, [0, 2**31 - 1, -(2**31)])


@pytest.mark.parametrize("target", FLOATS)
@pytest.mark.parametrize("source", ["s8", "u8", "s16", "u16", "s32", "u32"])
def test_integer_to_float(target, source):
    values = edges(source)
    exact = [Fraction(int(value)) for value in values]
    found = evaluate(f"cvt.rn.{target}.{source} %d, %a;", target, [(source, values)])
    np.testing.assert_array_equal(found.view(f"u{found.itemsize}"), rounded(target, exact))


@pytest.mark.parametrize("source", ["s64", "u64"])
def test_long_integer_to_float(source):
    values = edges(source)
    exact = [Fraction(int(value)) for value in values]
    found = evaluate(f"cvt.rn.f32.{source} %d, %a;", "f32", [(source, values)])
    np.testing.assert_array_equal(found.view(np.uint32), rounded("f32", exact))


@pytest.mark.parametrize("source", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("target", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
def test_integer_to_integer(target, source):
    values = edges(source)
    dtype = TYPES[target].dtype
    limits = np.iinfo(dtype)
    found = evaluate(f"cvt.{target}.{source} %d, %a;", target, [(source, values)])
    wrapped = [int(value) % (1 << 8 * dtype.itemsize) for value in values]
    np.testing.assert_array_equal(found.view(f"u{dtype.itemsize}"), np.array(wrapped, np.uint64))
    found = evaluate(f"cvt.sat.{target}.{source} %d, %a;", target, [(source, values)])
    assert [int(v) for v in found] == [min(max(int(v), limits.min), limits.max) for v in values]


def test_rounding_to_whole_floats_and_clamping():
    values = np.array([-2.5, -0.5, 0.5, 1.5, 2.5, np.nan, 0.25], np.float32)
    found = evaluate("cvt.rni.f32.f32 %d, %a;", "f32", [("f32", values)])
    np.testing.assert_array_equal(found, [-2, -0.0, 0, 2, 2, np.nan, 0])
    found = evaluate("cvt.sat.f32.f32 %d, %a;", "f32", [("f32", values)])
    np.testing.assert_array_equal(found, [0, 0, 0.5, 1, 1, 0, 0.25])
    found = evaluate("cvt.rn.relu.f16.f32 %d, %a;", "f16", [("f32", values[:5])])
    np.testing.assert_array_equal(found, [0, 0, 0.5, 1.5, 2.5])


def test_integers_are_rounded_once():
    """2^24 + 2^16 + 1 is a tie of neither float32 nor bfloat16, but of one after the other."""
    values = [2**24 + 2**16 + 1, 2**24 + 2**16, 2**24 + 2**16 - 1]
    found = evaluate("cvt.rn.bf16.u32 %d, %a;", "bf16", [("u32", values)])
    expected = [Fraction(2**24 + 2**17), Fraction(2**24), Fraction(2**24)]
    np.testing.assert_array_equal(found.view(np.uint16), rounded("bf16", expected))


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF800001])
@pytest.mark.parametrize("target", ["f16", "bf16"])
def test_no_payload_makes_a_number_of_nan(target, bits):
    values = np.array([bits], np.uint32).view(np.float32)
    found = evaluate(f"cvt.rn.{target}.f32 %d, %a;", target, [("f32", values)])
    back = evaluate(f"cvt.f32.{target} %d, %a;", "f32", [(target, found)])
    assert np.isnan(back[0])


@pytest.mark.parametrize("target", ["s32", "u32", "s64", "u64"])
def test_ends_of_the_range(target):
    limits = np.iinfo(TYPES[target].dtype)
    values = np.float32([2.0**31, 2.0**32, 2.0**63, 2.0**64, 1e30, -(2.0**31), -(2.0**63), -1e30])
    found = evaluate(f"cvt.rzi.{target}.f32 %d, %a;", target, [("f32", values)])
    assert [int(v) for v in found] == [min(max(int(v), limits.min), limits.max) for v in values]


def test_flushing_of_subnormals():
    values = np.float32([1e-40, -1e-40, 2.0**-126, -(2.0**-126), 1.0])
    found = evaluate("cvt.ftz.f64.f32 %d, %a;", "f64", [("f32", values)])
    np.testing.assert_array_equal(found, [0, -0.0, 2.0**-126, -(2.0**-126), 1])
    np.testing.assert_array_equal(np.signbit(found), [False, True, False, True, False])
    kept = evaluate("cvt.f64.f32 %d, %a;", "f64", [("f32", values)])
    np.testing.assert_array_equal(kept, values.astype(np.float64))


@pytest.mark.parametrize(
    "text",
    [
        "cvt.rn.e4m3x2.f32",
        "cvt.rp.f16.f32",
        "cvt.rn.satfinite.f16.f32",
        "cvt.u16.f32",
        "cvt.rni.rzi.u16.f32",
        "cvt.f16.f32.u32",
        "cvt.f16.u32",
        "cvt.rz.f16.u32",
    ],
)
def test_unknown_conversions_are_refused(text):
    with pytest.raises(UnsupportedPtx):
        evaluate(f"{text} %d, %a;", "f16", [("f32", np.zeros(1))])
