"""atom and red: every function, in every space, by some of the threads."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure, UnsupportedPtx
from ptx.float_formats import bfloat16_from_float32
from support_ptx import run_body

DECLARATIONS = """.reg .b32 %x, %y; .reg .b16 %h; .reg .b64 %at, %place, %wide; .reg .pred %p, %q;
.shared .align 8 .b8 tile[64];"""
#: The result of each thread goes to its word of %rd1.
KEEP = "mad.wide.u32 %at, %thread, 4, %rd1; st.global.b32 [%at], %x;"


def wrap_up(old: int, limit: int) -> int:
    return 0 if old >= limit else old + 1


def wrap_down(old: int, limit: int) -> int:
    return limit if old == 0 or old > limit else old - 1


@pytest.mark.parametrize(("name", "function"), [("inc", wrap_up), ("dec", wrap_down)])
@pytest.mark.parametrize("start", [0, 3, 7, 40])
def test_counters_wrap_at_their_limit(name, function, start):
    memory, y = np.array([start], np.uint32), np.zeros(32, np.uint32)
    body = f"xor.b32 %y, %thread, 5; atom.global.{name}.u32 %x, [%rd0], %y; {KEEP}"
    run_body(body, [memory, y], declarations=DECLARATIONS)
    value, olds = start, []
    for thread in range(32):
        olds.append(value)
        value = function(value, thread ^ 5)
    np.testing.assert_array_equal(y, olds)
    assert memory[0] == value


@pytest.mark.parametrize(("name", "function"), [("inc", wrap_up), ("dec", wrap_down)])
def test_counters_at_their_limit(name, function):
    for start in range(6):
        memory = np.array([start], np.uint32)
        body = f"red.global.{name}.u32 [%rd0], 3;"
        run_body(body, [memory], block=1, declarations=DECLARATIONS)
        assert memory[0] == function(start, 3)


@pytest.mark.parametrize("space", ["global", "shared", "generic shared", "generic global"])
def test_some_threads_in_every_space(space):
    """Every third thread adds; the others keep what they had."""
    memory, y = np.array([100], np.uint32), np.zeros(40, np.uint32)
    before = after = ""
    if "shared" in space:
        before = "setp.eq.u32 %q, %thread, 0; @%q st.shared.b32 [tile], 100; bar.sync 0;"
        after = "bar.sync 0; @%q ld.shared.b32 %y, [tile]; @%q st.global.b32 [%rd0], %y;"
    place = {
        "global": "mov.u64 %place, %rd0;",
        "generic global": "mov.u64 %place, %rd0;",
        "shared": "mov.u64 %place, tile;",
        "generic shared": "mov.u64 %place, tile; cvta.shared.u64 %place, %place;",
    }[space]
    suffix = "" if "generic" in space else f".{space}"
    body = f"""{before} {place} rem.u32 %y, %thread, 3; setp.eq.u32 %p, %y, 0; mov.u32 %x, 7;
    @%p atom{suffix}.add.u32 %x, [%place], %thread; {KEEP} {after}"""
    run_body(body, [memory, y], block=40, declarations=DECLARATIONS)
    value, expected = 100, [7] * 40
    for thread in range(0, 40, 3):
        expected[thread] = value
        value += thread
    np.testing.assert_array_equal(y, expected)
    assert memory[0] == value


def test_compare_and_swap_replaces_only_what_it_expects():
    memory, y = np.array([4], np.uint32), np.zeros(8, np.uint32)
    # Thread t waits for t and writes t + 2: 4 -> 6, then 6 -> 8.
    body = f"add.u32 %y, %thread, 2; atom.global.cas.b32 %x, [%rd0], %thread, %y; {KEEP}"
    run_body(body, [memory, y], block=8, declarations=DECLARATIONS)
    np.testing.assert_array_equal(y, [4, 4, 4, 4, 4, 6, 6, 8])
    assert memory[0] == 8


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_floats_are_rounded_in_every_step(kind):
    """2048 + 1 is no float16 (256 + 1 no bfloat16): each sum falls back, to even."""
    start = 2048.0 if kind == "f16" else 256.0
    as_bits = np.float16 if kind == "f16" else bfloat16_from_float32
    memory = np.asarray(as_bits(np.array([start], np.float32))).view(np.uint16)
    one = int(np.asarray(as_bits(np.ones(1, np.float32))).view(np.uint16)[0])
    expected = memory.copy()
    body = f"mov.b16 %h, {one}; red.global.add.noftz.{kind} [%rd0], %h;"
    run_body(body, [memory], declarations=DECLARATIONS)
    np.testing.assert_array_equal(memory, expected)


def test_what_is_exchanged_is_not_rounded():
    memory = np.array([0x7F800001], np.uint32)
    body = "setp.eq.u32 %p, %thread, 3; @%p atom.global.exch.b32 %x, [%rd0], 0x7FA00000;"
    run_body(body, [memory], declarations=DECLARATIONS)
    assert memory[0] == 0x7FA00000


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("atom.global.add.u32 %x, [%rd0+4], 1;", FailureKind.OUT_OF_BOUNDS),
        ("atom.global.add.u32 %x, [%rd0+2], 1;", FailureKind.MISALIGNED),
        ("atom.shared.add.u32 %x, [tile], 1;", FailureKind.UNINITIALISED_SHARED),
        # The kernel has no other access as narrow as the update.
        (
            "setp.eq.u32 %p, %thread, 0; mov.u64 %wide, 0; @%p st.shared.b64 [tile], %wide;"
            "bar.sync 0; atom.shared.add.u32 %x, [tile+8], 1;",
            FailureKind.UNINITIALISED_SHARED,
        ),
    ],
)
def test_updates_are_checked(body, kind):
    with pytest.raises(KernelFailure) as caught:
        run_body(body, [np.zeros(1, np.uint32)], declarations=DECLARATIONS)
    assert caught.value.kind is kind


def test_what_is_not_writable_is_not_updated():
    memory = np.zeros(1, np.uint32)
    memory.setflags(write=False)
    with pytest.raises(KernelFailure) as caught:
        run_body("red.global.add.u32 [%rd0], 1;", [memory], declarations=DECLARATIONS)
    assert caught.value.kind is FailureKind.READ_ONLY


@pytest.mark.parametrize("text", ["atom.global.frob.u32", "atom.global.u32", "atom.add.min.u32"])
def test_unknown_updates_are_refused(text):
    with pytest.raises(UnsupportedPtx):
        run_body(f"{text} %x, [%rd0], 1;", [np.zeros(1)], declarations=DECLARATIONS)
