"""Integer arithmetic against Python's unbounded integers."""

from __future__ import annotations

import numpy as np
import pytest
from ptx.scalar_types import TYPES
from support_ptx import EDGES, edges, evaluate, pairs

INTEGERS = ["u16", "s16", "u32", "s32", "u64", "s64"]


def wrapped(values: list[int], kind: str) -> np.ndarray:
    """Python integers -> the low bits as a type."""
    dtype = TYPES[kind].dtype
    mask = (1 << 8 * dtype.itemsize) - 1
    return np.array([value & mask for value in values], f"u{dtype.itemsize}").view(dtype)


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (-1 if (a < 0) != (b < 0) else 1)


BINARY = {
    "add": lambda a, b, bits: a + b,
    "sub": lambda a, b, bits: a - b,
    "mul.lo": lambda a, b, bits: a * b,
    "mul.hi": lambda a, b, bits: a * b >> bits,
    "min": lambda a, b, bits: min(a, b),
    "max": lambda a, b, bits: max(a, b),
    "div": lambda a, b, bits: quotient(a, b) if b else -1,
    "rem": lambda a, b, bits: a - quotient(a, b) * b if b else a,
}


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("name", BINARY)
def test_binary(name, kind):
    a, b = pairs(kind)
    if name in ("div", "rem"):  # what a division by zero gives is not defined
        a, b = a[b != 0], b[b != 0]
    bits = TYPES[kind].num_bits
    expected = [BINARY[name](int(x), int(y), bits) for x, y in zip(a, b, strict=True)]
    found = evaluate(f"{name}.{kind} %d, %a, %b;", kind, [(kind, a), (kind, b)])
    np.testing.assert_array_equal(found, wrapped(expected, kind))


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32"])
def test_wide_products(kind):
    a, b = pairs(kind)
    wide = f"{kind[0]}{2 * TYPES[kind].num_bits}"
    exact = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    found = evaluate(f"mul.wide.{kind} %d, %a, %b;", wide, [(kind, a), (kind, b)])
    np.testing.assert_array_equal(found, wrapped(exact, wide))
    c = np.resize(edges(wide), len(a))
    sources = [(kind, a), (kind, b), (wide, c)]
    found = evaluate(f"mad.wide.{kind} %d, %a, %b, %c;", wide, sources)
    total = [product + int(z) for product, z in zip(exact, c, strict=True)]
    np.testing.assert_array_equal(found, wrapped(total, wide))


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("half", ["lo", "hi"])
def test_multiply_add(kind, half):
    a, b = pairs(kind)
    c = np.resize(edges(kind)[::-1], len(a))
    shift = TYPES[kind].num_bits if half == "hi" else 0
    expected = [(int(x) * int(y) >> shift) + int(z) for x, y, z in zip(a, b, c, strict=True)]
    found = evaluate(f"mad.{half}.{kind} %d, %a, %b, %c;", kind, [(kind, v) for v in (a, b, c)])
    np.testing.assert_array_equal(found, wrapped(expected, kind))


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
def test_negation_and_magnitude(kind):
    a = edges(kind)
    negated = evaluate(f"neg.{kind} %d, %a;", kind, [(kind, a)])
    np.testing.assert_array_equal(negated, wrapped([-int(x) for x in a], kind))
    magnitude = evaluate(f"abs.{kind} %d, %a;", kind, [(kind, a)])
    np.testing.assert_array_equal(magnitude, wrapped([abs(int(x)) for x in a], kind))


def test_saturated_sums():
    a, b = pairs("s32")
    for name, function in (("add", int.__add__), ("sub", int.__sub__)):
        exact = [function(int(x), int(y)) for x, y in zip(a, b, strict=True)]
        expected = [min(max(value, -(2**31)), 2**31 - 1) for value in exact]
        found = evaluate(f"{name}.sat.s32 %d, %a, %b;", "s32", [("s32", a), ("s32", b)])
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["add", "sub"])
def test_carry_links_three_words(name):
    values = [high << 64 | edge for edge in EDGES for high in (0, 1, 0xFFFFFFFF)]
    cases = [(x, y) for x in values for y in values[::7]]
    low = [np.array([pair[n] & (1 << 64) - 1 for pair in cases], np.uint64) for n in (0, 1)]
    high = [np.array([pair[n] >> 64 for pair in cases], np.uint32) for n in (0, 1)]
    sources = [*(("u64", v) for v in low), *(("u32", v) for v in high)]
    body = f"""mov.b64 {{%x0, %x1}}, %a; mov.b64 {{%y0, %y1}}, %b;
    {name}.cc.u32 %z0, %x0, %y0;
    {name}c.cc.u32 %z1, %x1, %y1;
    {name}c.u32 %z2, %c, %e;
    mov.u32 %d, %z{{word}};"""
    words = [
        evaluate(
            body.replace("{word}", str(word)),
            "u32",
            sources,
            declarations=".reg .b32 %x<2>, %y<2>, %z<3>;",
        )
        for word in range(3)
    ]
    function = int.__add__ if name == "add" else int.__sub__
    found = [int(z) << 64 | int(y) << 32 | int(x) for x, y, z in zip(*words, strict=True)]
    assert found == [function(x, y) % (1 << 96) for x, y in cases]


def test_absolute_difference_and_dot():
    a, b = pairs("s32")
    c = np.resize(edges("s32"), len(a))
    sources = [("s32", a), ("s32", b), ("s32", c)]
    expected = [int(z) + abs(int(x) - int(y)) for x, y, z in zip(a, b, c, strict=True)]
    found = evaluate("sad.s32 %d, %a, %b, %c;", "s32", sources)
    np.testing.assert_array_equal(found, wrapped(expected, "s32"))
    found = evaluate("dp4a.s32.u32 %d, %a, %b, %c;", "s32", sources)
    left, right = a.view(np.int8).reshape(-1, 4), b.view(np.uint8).reshape(-1, 4)
    dots = [
        int(z) + sum(int(x) * int(y) for x, y in zip(p, q, strict=True))
        for p, q, z in zip(left, right, c, strict=True)
    ]
    np.testing.assert_array_equal(found, wrapped(dots, "s32"))
    unsigned = [("u32", a.view(np.uint32)), ("u32", b.view(np.uint32)), ("u32", c.view(np.uint32))]
    found = evaluate("dp4a.u32.u32 %d, %a, %b, %c;", "u32", unsigned)
    left = a.view(np.uint8).reshape(-1, 4)
    dots = [
        int(z) + sum(int(x) * int(y) for x, y in zip(p, q, strict=True))
        for p, q, z in zip(left, right, c, strict=True)
    ]
    np.testing.assert_array_equal(found, wrapped(dots, "u32"))


def test_the_carry_is_each_threads_own_and_kept():
    """Odd threads have a carry; even ones are passed over by the next sum, which has none."""
    body = """and.b32 %x, %thread, 1; setp.eq.u32 %p, %x, 1; not.pred %q, %p;
    add.cc.u32 %y, 0xFFFFFFFF, %x; @%q add.cc.u32 %y, 1, 1;
    addc.u32 %d, 10, 0; addc.u32 %z, 20, 0; add.u32 %d, %d, %z;"""
    found = evaluate(body, "u32", [("u32", np.zeros(8))], declarations=".reg .b32 %x, %y, %z;")
    np.testing.assert_array_equal(found, [30, 32] * 4)
