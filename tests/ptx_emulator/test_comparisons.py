"""setp, set, selp, slct, testp: every comparison on every kind of number."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from support_ptx import evaluate, pairs

PLAIN = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
FLOATS = [np.nan, -np.inf, -1.5, -0.0, 0.0, 1e-40, 1.5, np.inf]


def predicates(text: str, kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 where %p was set, 2 where %q was."""
    body = f"{text}\nselp.u32 %d, 1, 0, %p;\nselp.u32 %x, 2, 0, %q;\nor.b32 %d, %d, %x;"
    sources = [(kind, a), (kind, b)]
    return evaluate(body, "u32", sources, declarations=".reg .b32 %x; .reg .pred %r;")


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("name", [*PLAIN, *UNSIGNED])
def test_integers(kind, name):
    if name in UNSIGNED and kind[0] == "s":
        kind = "u" + kind[1:]
    a, b = pairs(kind)
    compare = PLAIN[UNSIGNED.get(name, name)]
    expected = [compare(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    found = predicates(f"setp.{name}.{kind} %p|%q, %a, %b;", kind, a, b)
    np.testing.assert_array_equal(found, np.where(expected, 1, 2))


@pytest.mark.parametrize("kind", ["f32", "f16", "f64"])
@pytest.mark.parametrize("name", [*PLAIN, *(f"{n}u" for n in PLAIN), "num", "nan"])
def test_floats_and_nan(kind, name):
    values = np.array(FLOATS, f"f{int(kind[1:]) // 8}")
    a, b = np.repeat(values, len(values)), np.tile(values, len(values))
    unordered = np.isnan(a) | np.isnan(b)
    if name in ("num", "nan"):
        expected = unordered if name == "nan" else ~unordered
    elif name.endswith("u"):
        expected = PLAIN[name[:-1]](a, b) | unordered
    else:
        expected = PLAIN[name](a, b) & ~unordered
    found = predicates(f"setp.{name}.{kind} %p|%q, %a, %b;", kind, a, b)
    np.testing.assert_array_equal(found, np.where(expected, 1, 2))


def test_flushing_before_the_comparison():
    a, b = np.float32([1e-40, -1e-40]), np.float32([0, 0])
    np.testing.assert_array_equal(predicates("setp.eq.f32 %p|%q, %a, %b;", "f32", a, b), 2)
    np.testing.assert_array_equal(predicates("setp.eq.ftz.f32 %p|%q, %a, %b;", "f32", a, b), 1)


@pytest.mark.parametrize(
    ("combine", "function"),
    [("and", operator.and_), ("or", operator.or_), ("xor", operator.xor)],
)
@pytest.mark.parametrize("negated", ["", "!"])
def test_combination_with_a_third_predicate(combine, function, negated):
    a, b = np.int32([0, 0, 1, 1]), np.int32([0, 1, 0, 1])
    third = (b == 1) != bool(negated)
    found = predicates(
        f"setp.eq.s32 %r, %b, 1;\nsetp.eq.{combine}.s32 %p|%q, %a, %b, {negated}%r;", "s32", a, b
    )
    equal = a == b
    expected = function(equal, third) * 1 + function(~equal, third) * 2
    np.testing.assert_array_equal(found, expected)


def test_pairs_of_floats_set_both_predicates():
    low, high = np.float16([1, 1, -1, np.nan]), np.float16([-1, 1, 1, 2])
    words = (low.view(np.uint16).astype(np.uint32)) | high.view(np.uint16).astype(np.uint32) << 16
    found = predicates("setp.gt.f16x2 %p|%q, %a, %b;", "b32", words, np.zeros(4, np.uint32))
    np.testing.assert_array_equal(found, [1, 3, 2, 2])


@pytest.mark.parametrize("kind", ["b16", "b32", "f32", "b64"])
def test_selection(kind):
    a, b = np.arange(8), np.arange(8) + 100
    found = evaluate(
        f"and.b32 %x, %thread, 1;\nsetp.eq.u32 %p, %x, 1;\nselp.{kind} %d, %a, %b, %p;",
        kind,
        [(kind, a), (kind, b)],
        declarations=".reg .b32 %x;",
    )
    np.testing.assert_array_equal(found, np.where(np.arange(8) % 2, a, b))


def test_selection_by_sign():
    sources = [("s32", [1, 1, 1]), ("s32", [2, 2, 2]), ("s32", [5, 0, -1])]
    np.testing.assert_array_equal(
        evaluate("slct.s32.s32 %d, %a, %b, %c;", "s32", sources), [1, 1, 2]
    )
    signs = [0.5, -0.0, -1e-40, np.nan]
    sources = [("u32", [1] * 4), ("u32", [2] * 4), ("f32", signs)]
    found = evaluate("slct.u32.f32 %d, %a, %b, %c;", "u32", sources)
    np.testing.assert_array_equal(found, [1, 1, 2, 2])
    found = evaluate("slct.ftz.u32.f32 %d, %a, %b, %c;", "u32", sources)
    np.testing.assert_array_equal(found, [1, 1, 1, 2])


def test_comparison_as_a_number():
    sources = [("f32", [1.0, 2.0, np.nan]), ("f32", [2.0, 1.0, 1.0])]
    found = evaluate("set.lt.u32.f32 %d, %a, %b;", "u32", sources)
    np.testing.assert_array_equal(found, [0xFFFFFFFF, 0, 0])
    found = evaluate("set.gtu.f32.f32 %d, %a, %b;", "f32", sources)
    np.testing.assert_array_equal(found, [0, 1, 1])
    found = evaluate("set.ge.s32.s32 %d, %a, %b;", "s32", [("s32", [-1, 1]), ("s32", [1, -1])])
    np.testing.assert_array_equal(found, [0, -1])


def test_comparison_of_pairs_as_numbers():
    sources = [("b32", [0x3C004000, 0x40003C00]), ("b32", [0x3C003C00, 0x3C003C00])]
    found = evaluate("set.gt.u32.f16x2 %d, %a, %b;", "u32", sources)
    np.testing.assert_array_equal(found, [0x0000FFFF, 0xFFFF0000])
    found = evaluate("set.gt.f16x2.f16x2 %d, %a, %b;", "b32", sources)
    np.testing.assert_array_equal(found, [0x00003C00, 0x3C000000])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("finite", [0, 0, 1, 1, 1, 1]),
        ("infinite", [0, 1, 0, 0, 0, 0]),
        ("number", [0, 1, 1, 1, 1, 1]),
        ("notanumber", [1, 0, 0, 0, 0, 0]),
        ("normal", [0, 0, 0, 0, 1, 1]),
        ("subnormal", [0, 0, 0, 1, 0, 0]),
    ],
)
def test_kinds_of_numbers(name, expected):
    values = np.float32([np.nan, -np.inf, 0, 1e-40, -2, 2.0**-126])
    body = f"testp.{name}.f32 %p, %a;\nselp.u32 %d, 1, 0, %p;"
    np.testing.assert_array_equal(evaluate(body, "u32", [("f32", values)]), expected)
