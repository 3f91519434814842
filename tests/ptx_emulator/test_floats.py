"""Float arithmetic against exact fractions, rounded once."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import tolerances
from ptx import UnsupportedPtx
from ptx.scalar_types import TYPES
from support_ptx import evaluate
from support_rounding import FORMATS, fractions, rounded

KINDS = ["f16", "bf16", "f32"]
COUNT = 700


def as_bits(values: np.ndarray) -> np.ndarray:
    return values.view(f"u{values.itemsize}")


def random_sources(kind: str, number: int, seed: int) -> list[np.ndarray]:
    """Bits: some of every magnitude, some of like magnitude, some that nearly cancel."""
    rng = np.random.default_rng(seed)
    form = FORMATS[kind]
    sources = [form.random_bits(rng, COUNT) for _ in range(number)]
    near = rounded(kind, [Fraction(float(v)) for v in rng.standard_normal(COUNT // 2)])
    for source in sources:
        source[COUNT // 2 :] = rng.permutation(near)[: COUNT - COUNT // 2]
    return sources


def assert_same_floats(kind: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Equal bits; the sign of an exact zero sum is tested elsewhere."""
    found, sign = as_bits(found), 1 << (TYPES[kind].num_bits - 1)
    zero = (expected & (sign - 1)) == 0
    np.testing.assert_array_equal(found[~zero], expected[~zero])
    np.testing.assert_array_equal(found[zero] & (sign - 1), 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_sums_and_products_are_rounded_once(kind, name):
    a, b = random_sources(kind, 2, seed=1)
    function = {"add": Fraction.__add__, "sub": Fraction.__sub__, "mul": Fraction.__mul__}[name]
    exact = [function(x, y) for x, y in zip(fractions(kind, a), fractions(kind, b), strict=True)]
    rn = ".rn" if kind != "f32" else ""
    found = evaluate(f"{name}{rn}.{kind} %d, %a, %b;", kind, _typed(kind, a, b))
    assert_same_floats(kind, found, rounded(kind, exact))


@pytest.mark.parametrize("kind", KINDS)
def test_fused_multiply_add_is_rounded_once(kind):
    a, b, c = random_sources(kind, 3, seed=2)
    # Products that c nearly cancels, and c in the last place of a product: two roundings go wrong.
    products = [x * y for x, y in zip(fractions(kind, a), fractions(kind, b), strict=True)]
    c[::3] = rounded(kind, [-p for p in products])[::3]
    infinity = rounded(kind, [Fraction(2) ** 2000])[0]
    c = np.where(c & (infinity | 0) == infinity, 0, c).astype(c.dtype)
    exact = [p + z for p, z in zip(products, fractions(kind, c), strict=True)]
    found = evaluate(f"fma.rn.{kind} %d, %a, %b, %c;", kind, _typed(kind, a, b, c))
    assert_same_floats(kind, found, rounded(kind, exact))


def test_fused_multiply_add_in_the_middle_between_floats():
    one_and = np.float32(1 + 2.0**-12)  # its square is 1 + 2^-11 + 2^-24: a tie in float32
    tiny = np.float32(2.0**-80)
    a = np.array([one_and] * 3, np.float32)
    c = np.array([tiny, -tiny, 0], np.float32)
    found = evaluate("fma.rn.f32 %d, %a, %a, %b;", "f32", [("f32", a), ("f32", c)])
    below = np.float32(1 + 2.0**-11)
    np.testing.assert_array_equal(found, [np.nextafter(below, np.float32(2)), below, below])


@pytest.mark.parametrize("kind", ["f16x2", "bf16x2"])
def test_pairs_are_two_of_the_single_kind(kind):
    single = kind.removesuffix("x2")
    halves = random_sources(single, 6, seed=4)
    low, high = halves[:3], halves[3:]
    words = [
        x.astype(np.uint32) | y.astype(np.uint32) << 16 for x, y in zip(low, high, strict=True)
    ]
    for name, arity in (("add.rn", 2), ("sub.rn", 2), ("mul.rn", 2), ("fma.rn", 3), ("max", 2)):
        operands = ", ".join(("%a", "%b", "%c")[:arity])
        text = f"{name}.{{}} %d, {operands};"
        found = evaluate(text.format(kind), "b32", [("b32", w) for w in words[:arity]])
        for shift, part in ((0, low), (16, high)):
            expected = evaluate(text.format(single), single, _typed(single, *part[:arity]))
            np.testing.assert_array_equal(
                (found >> np.uint32(shift)).astype(np.uint16), as_bits(expected)
            )


def test_division_and_root_are_rounded_once():
    a, b = random_sources("f32", 2, seed=5)
    b = np.where(b << 1 == 0, np.uint32(0x3F800000), b)
    exact = [x / y for x, y in zip(fractions("f32", a), fractions("f32", b), strict=True)]
    for name in ("div.rn.f32", "div.full.f32", "div.approx.f32"):
        found = evaluate(f"{name} %d, %a, %b;", "f32", _typed("f32", a, b))
        assert_same_floats("f32", found, rounded("f32", exact))
    reciprocals = [1 / y for y in fractions("f32", b)]
    found = evaluate("rcp.rn.f32 %d, %a;", "f32", _typed("f32", b))
    assert_same_floats("f32", found, rounded("f32", reciprocals))
    positive = np.abs(b.view(np.float32))
    root = evaluate("sqrt.rn.f32 %d, %a;", "f32", [("f32", positive)])
    squares = np.sqrt(positive.astype(np.longdouble)).astype(np.float32)
    np.testing.assert_array_equal(root, squares)


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40], np.float32)


def test_special_values():
    a, b = np.repeat(SPECIAL, len(SPECIAL)), np.tile(SPECIAL, len(SPECIAL))
    sources = [("f32", a), ("f32", b)]
    with np.errstate(all="ignore"):
        for name, expected in (("add", a + b), ("mul", a * b), ("div.rn", a / b)):
            found = evaluate(f"{name}.f32 %d, %a, %b;", "f32", sources)
            np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
            valid = ~np.isnan(expected)
            np.testing.assert_array_equal(as_bits(found)[valid], as_bits(expected)[valid])


@pytest.mark.parametrize(
    ("name", "a", "b", "expected"),
    [
        ("min.f32", np.nan, 2.0, 2.0),
        ("min.NaN.f32", np.nan, 2.0, np.nan),
        ("max.f32", 2.0, np.nan, 2.0),
        ("max.NaN.f32", 2.0, np.nan, np.nan),
        ("min.f32", 0.0, -0.0, -0.0),
        ("max.f32", -0.0, 0.0, 0.0),
        ("max.f32", -np.inf, -3.0, -3.0),
        ("add.sat.f32", 0.75, 0.75, 1.0),
        ("add.sat.f32", np.nan, 0.75, 0.0),
        ("add.sat.f32", -3.0, 0.75, 0.0),
        ("add.ftz.f32", 1e-40, -0.0, 0.0),
        ("mul.ftz.f32", -1e-20, 1e-20, -0.0),
        ("add.ftz.f32", 2.0**-126, 0.0, 2.0**-126),
        ("add.f32", 1e-40, 0.0, 1e-40),
        ("mul.ftz.f32", 1e-40, 1e38, 0.0),
        ("mul.ftz.f32", -1e-40, 1e38, -0.0),
        ("copysign.f32", -0.0, 5.0, -5.0),
        ("copysign.f32", 3.0, -5.0, 5.0),
    ],
)
def test_single_cases(name, a, b, expected):
    found = evaluate(f"{name} %d, %a, %b;", "f32", [("f32", [a]), ("f32", [b])])
    wanted = np.array([expected], np.float32)
    if np.isnan(expected):
        assert np.isnan(found[0])
    else:
        assert as_bits(found) == as_bits(wanted)


@pytest.mark.parametrize("kind", ["f16", "f16x2"])
def test_flushing_of_half_precision(kind):
    """Its own smallest normal number, 2^-14, counts, not that of float32."""
    halves = np.float16([2.0**-15, -(2.0**-15), 2.0**-14, -(2.0**-14)]).view(np.uint16)
    expected = np.float16([0.0, -0.0, 2.0**-14, -(2.0**-14)]).view(np.uint16)
    if kind == "f16x2":
        halves, expected = halves.view(np.uint32), expected.view(np.uint32)
    one = np.full(len(halves), 0x3C003C00, np.uint32).astype(halves.dtype)
    sources = _typed(kind, halves, one)
    np.testing.assert_array_equal(
        as_bits(evaluate(f"mul.ftz.{kind} %d, %a, %b;", kind, sources)), expected
    )


def test_products_end_above_zero_or_within_one():
    a, b = np.float16([-2, 2, 0.25, np.nan]), np.float16([1, 1, 1, 1])
    sources = [("f16", a), ("f16", b), ("f16", np.float16([0.5] * 4))]
    found = evaluate("fma.rn.relu.f16 %d, %a, %b, %c;", "f16", sources)
    np.testing.assert_array_equal(found[:3], [0, 2.5, 0.75])
    found = evaluate("fma.rn.sat.f16 %d, %a, %b, %c;", "f16", sources)
    np.testing.assert_array_equal(found, [0, 1, 0.75, 0])


@pytest.mark.parametrize("text", ["fma.rn.f64", "add.rz.f32", "add.u8.f32x2", "tanh.approx.s32"])
def test_unknown_arithmetic_is_refused(text):
    operands = {"fma": "%a, %a, %a", "tan": "%a"}.get(text[:3], "%a, %a")
    with pytest.raises(UnsupportedPtx):
        evaluate(f"{text} %d, {operands};", "f64", [("f64", np.zeros(1))])


def test_signs():
    bits = random_sources("f32", 1, seed=6)[0]
    values = bits.view(np.float32)
    np.testing.assert_array_equal(evaluate("neg.f32 %d, %a;", "f32", [("f32", values)]), -values)
    np.testing.assert_array_equal(
        evaluate("abs.f32 %d, %a;", "f32", [("f32", values)]), abs(values)
    )


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("ex2.approx", np.exp2),
        ("lg2.approx", np.log2),
        ("rsqrt.approx", lambda v: 1 / np.sqrt(v)),
        ("rcp.approx", np.reciprocal),
        ("sin.approx", np.sin),
        ("cos.approx", np.cos),
    ],
)
def test_approximate_functions_are_exact_here(name, function):
    values = np.linspace(0.01, 20, 999).astype(np.float32)
    found = evaluate(f"{name}.ftz.f32 %d, %a;", "f32", [("f32", values)])
    expected = function(values.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(found, expected)


def test_tanh_is_as_inexact_as_documented():
    values = np.linspace(-6, 6, 1001).astype(np.float32)
    found = evaluate("tanh.approx.f32 %d, %a;", "f32", [("f32", values)])
    exact = np.tanh(values.astype(np.float64))
    error = np.abs(found - exact)[exact != 0] / np.abs(exact[exact != 0])
    assert error.max() <= tolerances.TANH_APPROX_RELATIVE
    assert error.max() > tolerances.TANH_APPROX_RELATIVE / 2, "better than the hardware promises"
    ends = np.array([0.0, -0.0, np.inf, -np.inf], np.float32)
    found = evaluate("tanh.approx.f32 %d, %a;", "f32", [("f32", ends)])
    np.testing.assert_array_equal(as_bits(found), as_bits(np.tanh(ends)))


def _typed(kind: str, *bits: np.ndarray) -> list[tuple[str, np.ndarray]]:
    return [(kind, values.view(TYPES[kind].dtype)) for values in bits]
