"""Exchange within a warp, against the ISA's own pseudo-code lane by lane."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure
from support_ptx import evaluate, run_body

LANES = range(32)
FULL = "0xffffffff"


def shuffled(mode: str, lane: int, by: int, clamp: int) -> tuple[int, bool]:
    """(source lane, predicate) as the ISA's shfl.sync pseudo-code has it."""
    segment = clamp >> 8 & 31
    last = (lane & segment) | (clamp & 31 & ~segment)
    first = lane & segment
    source, valid = {
        "up": (lane - by, lane - by >= last),
        "down": (lane + by, lane + by <= last),
        "bfly": (lane ^ by, lane ^ by <= last),
        "idx": (first | (by & ~segment), first | (by & ~segment) <= last),
    }[mode]
    return (source, True) if valid else (lane, False)


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 16, 8])
@pytest.mark.parametrize("by", [0, 1, 3, 7, 16, 31])
def test_shuffle(mode, width, by):
    clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
    values = np.arange(64, dtype=np.uint32) * 10
    body = f"""shfl.sync.{mode}.b32 %d|%p, %a, {by}, {clamp}, {FULL};
    selp.u32 %x, 1, 0, %p; add.u32 %d, %d, %x;"""
    found = evaluate(body, "u32", [("u32", values)], declarations=".reg .b32 %x;")
    for warp in range(2):
        for lane in LANES:
            source, valid = shuffled(mode, lane, by & 31, clamp)
            if mode == "idx" and not valid:
                continue
            assert found[32 * warp + lane] == (32 * warp + source) * 10 + valid, (warp, lane)


def test_shuffle_by_each_thread_of_its_own_amount():
    rng = np.random.default_rng(1)
    values, by = rng.integers(0, 99, 32, np.uint32), rng.integers(0, 32, 32, np.uint32)
    found = evaluate(
        f"shfl.sync.idx.b32 %d, %a, %b, 31, {FULL};", "u32", [("u32", values), ("u32", by)]
    )
    np.testing.assert_array_equal(found, values[by])


def test_sum_over_a_warp_by_shuffles():
    values = np.random.default_rng(2).standard_normal(96).astype(np.float32)
    steps = "".join(
        f"shfl.sync.bfly.b32 %x, %d, {step}, 31, {FULL}; add.f32 %d, %d, %x;"
        for step in (16, 8, 4, 2, 1)
    )
    found = evaluate(
        f"mov.b32 %d, %a; {steps}", "f32", [("f32", values)], declarations=".reg .b32 %x;"
    )
    sums = values.reshape(3, 32).astype(np.float64).sum(axis=1)
    np.testing.assert_allclose(found.reshape(3, 32), np.repeat(sums, 32).reshape(3, 32), atol=1e-5)


SPLIT = "setp.lt.u32 %p, %thread, {count};\n@%p bra $far;\nbra $end;\n$far:\n{inside}\n$end:\n"


def test_votes_among_the_threads_that_vote():
    inside = """and.b32 %x, %thread, 1; setp.eq.u32 %q, %x, 0;
    vote.sync.ballot.b32 %d, %q, 0x7f;
    vote.sync.any.pred %q, %q, 0x7f;
    vote.sync.all.pred %p, %q, 0x7f;
    activemask.b32 %x; add.u32 %d, %d, %x;
    selp.u32 %x, 256, 0, %p; add.u32 %d, %d, %x;"""
    found = evaluate(
        "mov.u32 %d, 0;" + SPLIT.format(count=7, inside=inside),
        "u32",
        [("u32", np.zeros(32))],
        declarations=".reg .b32 %x;",
    )
    np.testing.assert_array_equal(found[:7], 0b1010101 + 0b1111111 + 256)
    np.testing.assert_array_equal(found[7:], 0)


def test_uniform_vote():
    for values, expected in (([1] * 32, 1), ([0] * 32, 1), ([0] * 31 + [1], 0)):
        body = f"setp.ne.u32 %p, %a, 0; vote.sync.uni.pred %q, %p, {FULL}; selp.u32 %d, 1, 0, %q;"
        np.testing.assert_array_equal(evaluate(body, "u32", [("u32", values)]), expected)


@pytest.mark.parametrize(
    ("name", "kind", "function"),
    [
        ("add", "u32", np.sum),
        ("add", "s32", np.sum),
        ("min", "s32", np.min),
        ("max", "u32", np.max),
        ("and", "b32", np.bitwise_and.reduce),
        ("or", "b32", np.bitwise_or.reduce),
        ("xor", "b32", np.bitwise_xor.reduce),
    ],
)
def test_reductions(name, kind, function):
    values = np.random.default_rng(3).integers(0, 2**31, 32, np.uint32).view(np.int32)
    values = values if kind[0] == "s" else values.view(np.uint32)
    found = evaluate(f"redux.sync.{name}.{kind} %d, %a, {FULL};", kind, [(kind, values)])
    expected = np.asarray(function(values)).astype(np.int64) & 0xFFFFFFFF
    np.testing.assert_array_equal(found.view(np.uint32), expected)


@pytest.mark.parametrize(
    "inside",
    [
        "shfl.sync.bfly.b32 %x, %thread, 1, 31, 0xffffffff;",
        "bar.warp.sync 0xffffffff;",
        "shfl.sync.idx.b32 %x, %thread, 9, 31, 0x7f;",
        "shfl.sync.bfly.b32 %x, %thread, 1, 31, 0x3f;",
        "vote.sync.ballot.b32 %x, %p, 0xffffffff;",
    ],
)
def test_members_that_are_elsewhere(inside):
    with pytest.raises(KernelFailure) as caught:
        run_body(
            SPLIT.format(count=7, inside=inside),
            [np.zeros(1)],
            declarations=".reg .pred %p; .reg .b32 %x;",
        )
    assert caught.value.kind is FailureKind.DIVERGENT_WARP
    assert inside.rstrip(";") == caught.value.text


def test_all_members_of_a_part_may_exchange():
    inside = "shfl.sync.bfly.b32 %d, %thread, 1, 31, 0x3f;"
    body = "mov.u32 %d, 99;" + SPLIT.format(count=6, inside=inside)
    found = evaluate(body, "u32", [("u32", np.zeros(32))])
    np.testing.assert_array_equal(found[:6], [1, 0, 3, 2, 5, 4])


def test_a_block_that_is_no_whole_number_of_warps():
    body = f"activemask.b32 %d; bar.warp.sync {FULL};"
    found = evaluate(body, "u32", [("u32", np.zeros(40))])
    assert set(found[:32]) == {0xFFFFFFFF} and set(found[32:]) == {0xFF}


#: What seven of 32 threads have, and the others, which take no part.
PARTS = {"u32": ([9, 3, 12, 7, 3, 8, 5], 1), "s32": ([-4, -9, -2, -7, -3, -8, -5], 0)}
PARTS |= {"b32": ([0xFF, 0x7F, 0x3F, 0xFB, 0xF7, 0xEF, 0x5F], 0x80)}


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("add", "u32", 47),
        ("add", "s32", -38),
        ("min", "u32", 3),
        ("max", "s32", -2),
        ("max", "u32", 12),
        ("min", "s32", -9),
        ("and", "b32", 0x03),
        ("or", "b32", 0xFF),
        ("xor", "b32", 0xFF ^ 0x7F ^ 0x3F ^ 0xFB ^ 0xF7 ^ 0xEF ^ 0x5F),
    ],
)
def test_reductions_over_members_alone(name, kind, expected):
    members, rest = PARTS[kind]
    values = np.array([*members, *[rest] * 25])
    inside = f"redux.sync.{name}.{kind} %d, %a, 0x7f;"
    found = evaluate(
        "mov.u32 %d, 77;" + SPLIT.format(count=7, inside=inside), kind, [(kind, values)]
    )
    assert list(found) == [expected] * 7 + [77] * 25


@pytest.mark.parametrize(
    ("mode", "others", "expected"),
    [("all", 0, 1), ("any", 1, 0), ("uni", 1, 1), ("uni", 0, 1), ("ballot", 1, 0)],
)
def test_votes_of_others_do_not_count(mode, others, expected):
    """Seven threads say the same, the others the opposite."""
    own = 1 if mode == "all" else 0
    values = np.array([own] * 7 + [others] * 25)
    kind, result = ("b32", "%d") if mode == "ballot" else ("pred", "%q")
    inside = f"""setp.ne.u32 %q, %a, 0; vote.sync.{mode}.{kind} {result}, %q, 0x7f;
    {"" if mode == "ballot" else "selp.u32 %d, 1, 0, %q;"}"""
    body = "mov.u32 %d, 9; setp.ne.u32 %q, %a, 0;" + SPLIT.format(count=7, inside=inside)
    np.testing.assert_array_equal(
        evaluate(body, "u32", [("u32", values)]), [expected] * 7 + [9] * 25
    )


@pytest.mark.parametrize(
    "inside",
    ["bar.warp.sync 0x3f;", "vote.sync.any.pred %p, %p, 0x3f;", "redux.sync.add.u32 %x, %x, 0x3f;"],
)
def test_who_is_not_named_may_not_take_part(inside):
    with pytest.raises(KernelFailure, match="its member mask does not name") as caught:
        run_body(
            "mov.u32 %x, 1;" + SPLIT.format(count=7, inside=inside),
            [np.zeros(1)],
            declarations=".reg .pred %p; .reg .b32 %x;",
        )
    assert caught.value.thread == (6, 0, 0)


def test_a_shuffle_from_who_does_not_take_part():
    inside = "shfl.sync.down.b32 %x, %thread, 1, 31, 0x7f;"
    with pytest.raises(KernelFailure, match="reads lane 7, which does not execute it") as caught:
        run_body(
            SPLIT.format(count=7, inside=inside),
            [np.zeros(1)],
            declarations=".reg .pred %p; .reg .b32 %x;",
        )
    assert caught.value.thread == (6, 0, 0)
