"""Logic, shifts and bit fields against Python's unbounded integers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ptx.scalar_types import TYPES
from support_ptx import edges, evaluate, pairs

AMOUNTS = np.array([0, 1, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 0xFFFFFFFF], np.uint32)


def with_amounts(kind: str) -> tuple[np.ndarray, np.ndarray]:
    values = edges(kind)
    return np.repeat(values, len(AMOUNTS)), np.tile(AMOUNTS, len(values))


@pytest.mark.parametrize("width", [16, 32, 64])
def test_logic(width):
    kind = f"b{width}"
    a, b = pairs(kind)
    sources = [(kind, a), (kind, b)]
    for name, function in (("and", a & b), ("or", a | b), ("xor", a ^ b)):
        np.testing.assert_array_equal(
            evaluate(f"{name}.{kind} %d, %a, %b;", kind, sources), function
        )
    np.testing.assert_array_equal(evaluate(f"not.{kind} %d, %a;", kind, sources[:1]), ~a)
    np.testing.assert_array_equal(evaluate(f"cnot.{kind} %d, %a;", kind, sources[:1]), a == 0)


@pytest.mark.parametrize("table", [0x00, 0x01, 0x80, 0x96, 0xE8, 0xCA, 0x6A, 0xF8, 0xFE, 0xFF])
def test_three_input_logic_follows_its_truth_table(table):
    # Eight bits of the operands run through all rows of the table.
    a, b, c = np.uint32([0xF0F0F0F0]), np.uint32([0xCCCCCCCC]), np.uint32([0xAAAAAAAA])
    found = evaluate(
        f"lop3.b32 %d, %a, %b, %c, {table};", "b32", [("b32", a), ("b32", b), ("b32", c)]
    )
    assert found[0] == table * 0x01010101


@pytest.mark.parametrize("kind", ["b16", "b32", "b64"])
def test_shift_left_beyond_the_width_is_zero(kind):
    a, by = with_amounts(kind)
    mask = (1 << TYPES[kind].num_bits) - 1
    expected = [int(x) << min(int(n), 64) & mask for x, n in zip(a, by, strict=True)]
    found = evaluate(f"shl.{kind} %d, %a, %b;", kind, [(kind, a), ("u32", by)])
    np.testing.assert_array_equal(found, np.array(expected, TYPES[kind].dtype))


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "b32", "u64", "s64"])
def test_shift_right_beyond_the_width_leaves_the_sign(kind):
    a, by = with_amounts(kind)
    expected = [int(x) >> min(int(n), 64) for x, n in zip(a, by, strict=True)]
    found = evaluate(f"shr.{kind} %d, %a, %b;", kind, [(kind, a), ("u32", by)])
    np.testing.assert_array_equal(found, np.array(expected, TYPES[kind].dtype))


@pytest.mark.parametrize("side", ["l", "r"])
@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shift(side, mode):
    words = edges("u32")
    cases = list(itertools.product(words[::3], words[1::3], AMOUNTS))
    low, high, by = (np.array(values, np.uint32) for values in zip(*cases, strict=True))
    expected = []
    for x, y, n in zip(low, high, by, strict=True):
        n = int(n) % 32 if mode == "wrap" else min(int(n), 32)
        both = int(y) << 32 | int(x)
        expected.append((both << n >> 32 if side == "l" else both >> n) & 0xFFFFFFFF)
    sources = [("u32", low), ("u32", high), ("u32", by)]
    found = evaluate(f"shf.{side}.{mode}.b32 %d, %a, %b, %c;", "u32", sources)
    np.testing.assert_array_equal(found, np.array(expected, np.uint32))


FIELDS = [(s, n) for s in (0, 3, 31, 32, 60, 255) for n in (0, 1, 5, 32, 64, 255)]


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_extract_field(kind):
    """The ISA's own loop, bit by bit."""
    cases = [(x, s, n) for x in edges(kind) for s, n in FIELDS]
    top_bit = TYPES[kind].num_bits - 1
    expected = []
    for value, start, length in cases:
        bits = int(value) & ((1 << (top_bit + 1)) - 1)
        if kind[0] == "u" or length == 0:
            sign = 0
        else:
            sign = bits >> min(start + length - 1, top_bit) & 1
        result = 0
        for place in range(top_bit + 1):
            inside = place < length and start + place <= top_bit
            result |= (bits >> (start + place) & 1 if inside else sign) << place
        expected.append(result)
    value, start, length = (np.array(column) for column in zip(*cases, strict=True))
    sources = [(kind, value), ("u32", start), ("u32", length)]
    found = evaluate(f"bfe.{kind} %d, %a, %b, %c;", kind, sources)
    np.testing.assert_array_equal(found.view(f"u{found.itemsize}"), np.array(expected, np.uint64))


@pytest.mark.parametrize("kind", ["b32", "b64"])
def test_insert_field(kind):
    width = TYPES[kind].num_bits
    words = edges(kind)
    cases = [(x, y, s, n) for x in words[::4] for y in words[1::4] for s, n in FIELDS]
    expected = []
    for a, b, start, length in cases:
        result = int(b)
        for place in range(length):
            if start + place < width:
                bit = 1 << (start + place)
                result = result & ~bit | (bit if int(a) >> place & 1 else 0)
        expected.append(result)
    a, b, start, length = (np.array(column) for column in zip(*cases, strict=True))
    sources = [(kind, a), (kind, b), ("u32", start), ("u32", length)]
    found = evaluate(f"bfi.{kind} %d, %a, %b, %c, %e;", kind, sources)
    np.testing.assert_array_equal(found, np.array(expected, np.uint64).astype(found.dtype))


def test_permute_bytes():
    rng = np.random.default_rng(3)
    a, b, selector = (rng.integers(0, 2**32, 300, np.uint32) for _ in range(3))
    expected = []
    for x, y, s in zip(a, b, selector, strict=True):
        source = (int(y) << 32 | int(x)).to_bytes(8, "little")
        nibbles = [int(s) >> 4 * place & 15 for place in range(4)]
        bytes_ = [(source[n & 7] >> 7) * 255 if n & 8 else source[n & 7] for n in nibbles]
        expected.append(int.from_bytes(bytes(bytes_), "little"))
    sources = [("b32", a), ("b32", b), ("b32", selector)]
    found = evaluate("prmt.b32 %d, %a, %b, %c;", "b32", sources)
    np.testing.assert_array_equal(found, np.array(expected, np.uint32))
    assert evaluate("prmt.b32 %d, %a, %b, 0x5410;", "b32", sources[:2])[0] == (
        int(a[0]) & 0xFFFF | (int(b[0]) & 0xFFFF) << 16
    )


@pytest.mark.parametrize("width", [32, 64])
def test_counting_and_reversing(width):
    kind = f"b{width}"
    a = edges(kind)
    texts = [f"{int(x):0{width}b}" for x in a]
    found = {
        name: evaluate(f"{name}.{kind} %d, %a;", "u32", [(kind, a)]) for name in ("popc", "clz")
    }
    np.testing.assert_array_equal(found["popc"], [text.count("1") for text in texts])
    np.testing.assert_array_equal(found["clz"], [len(text.split("1")[0]) for text in texts])
    reverse = evaluate(f"brev.{kind} %d, %a;", kind, [(kind, a)])
    assert [int(x) for x in reverse] == [int(text[::-1], 2) for text in texts]


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_find_uppermost_bit(kind):
    a = edges(kind)
    expected = []
    for x in a:
        x = ~int(x) if x < 0 else int(x)
        expected.append(x.bit_length() - 1 if x else 0xFFFFFFFF)
    found = evaluate(f"bfind.{kind} %d, %a;", "u32", [(kind, a)])
    np.testing.assert_array_equal(found, np.array(expected, np.uint32))
    shift = evaluate(f"bfind.shiftamt.{kind} %d, %a;", "u32", [(kind, a)])
    width = TYPES[kind].num_bits
    np.testing.assert_array_equal(
        shift, [width - 1 - n if n != 0xFFFFFFFF else 0xFFFFFFFF for n in expected]
    )
