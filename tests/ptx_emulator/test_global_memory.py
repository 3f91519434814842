"""Order of accesses to global memory, and atomic updates."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure
from support_ptx import run_body

DECLARATIONS = """.reg .b32 %x, %y, %block, %all; .reg .f32 %f; .reg .b64 %at, %mine;
.reg .pred %p; .shared .align 4 .b8 tile[64];"""
#: %mine: the address of this thread's own word of %rd0.
MINE = """mov.u32 %block, %ctaid.x; mov.u32 %x, %ntid.x; mad.lo.u32 %all, %block, %x, %thread;
mad.wide.u32 %mine, %all, 4, %rd0;
"""


def failure(body: str, buffers: list[np.ndarray], **options) -> FailureKind:
    with pytest.raises(KernelFailure) as caught:
        run_body(MINE + body, buffers, declarations=DECLARATIONS, **options)
    return caught.value.kind


def words(count: int) -> np.ndarray:
    return np.zeros(count, np.uint32)


def test_two_threads_may_not_write_one_word():
    assert failure("st.global.b32 [%rd0], 1;", [words(9)], block=32) is FailureKind.RACE
    assert failure("st.global.b32 [%rd0], 1;", [words(9)], block=1, grid=2) is FailureKind.RACE
    many = "st.global.b32 [%mine], 1;"
    overlapping = many.replace("%mine", "%mine+4")
    assert failure(many + overlapping, [words(65)], block=64) is FailureKind.RACE
    run_body(MINE + many, [words(64)], block=32, grid=2, declarations=DECLARATIONS)


@pytest.mark.parametrize(
    "one", ["ld.global.v2.b32 {%x, %y}, [%at];", "ld.global.b64 %mine, [%at];"]
)
def test_all_of_a_vector_is_accessed(one):
    """Block 0 accesses both words of a pair, block 1 the second one alone."""
    first = "setp.eq.u32 %p, %block, 0; mov.u64 %at, %rd0;"
    two = one.replace("ld.", "st.").replace("{%x, %y}, [%at]", "[%at], {%x, %x}")
    two = two.replace("%mine, [%at]", "[%at], %mine")
    for access in (one, two):
        body = f"{first} @%p {access} setp.eq.u32 %p, %block, 1; @%p st.global.b32 [%rd0+4], 1;"
        assert failure(body, [words(4)], block=1, grid=2) is FailureKind.RACE
        apart = body.replace("[%rd0+4]", "[%rd0+8]")
        run_body(MINE + apart, [words(4)], block=1, grid=2, declarations=DECLARATIONS)


def test_halves_of_a_word_do_not_race():
    y = np.zeros(64, np.uint16)
    body = "mad.wide.u32 %at, %all, 2, %rd0; st.global.u16 [%at], %all;"
    run_body(MINE + body, [y], block=32, grid=2, declarations=DECLARATIONS)
    np.testing.assert_array_equal(y, np.arange(64))


def test_reading_what_another_block_writes_is_a_race():
    body = """st.global.b32 [%mine], 1; xor.b32 %x, %all, {step};
    mad.wide.u32 %at, %x, 4, %rd0; {barrier} ld.global.b32 %y, [%at];"""
    near = body.format(step=32, barrier="bar.sync 0;")
    run_body(MINE + near, [words(128)], block=64, grid=2, declarations=DECLARATIONS)
    far = body.format(step=64, barrier="bar.sync 0;")
    assert failure(far, [words(128)], block=64, grid=2) is FailureKind.RACE
    unordered = body.format(step=32, barrier="")
    assert failure(unordered, [words(128)], block=64, grid=2) is FailureKind.RACE


def test_writing_where_another_block_has_read_is_a_race():
    body = "ld.global.b32 %y, [%rd0+{place}]; setp.eq.u32 %p, %all, 5; @%p st.global.b32 [%rd0], 1;"
    assert failure(body.format(place=0), [words(8)], block=1, grid=8) is FailureKind.RACE
    last_reader = body.format(place=0).replace("%all, 5;", "%all, 7;")
    assert failure(last_reader, [words(8)], block=1, grid=8) is FailureKind.RACE
    run_body(MINE + body.format(place=4), [words(8)], block=1, grid=8, declarations=DECLARATIONS)


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize(
    ("name", "kind", "start", "expected"),
    [
        ("add", "u32", 3, 3 + sum(range(64))),
        ("min", "s32", 40, 0),
        ("max", "u32", 7, 63),
        ("or", "b32", 0, 63),
        ("and", "b32", 0xFF, 0),
        ("xor", "b32", 1, 1),
        ("exch", "b32", 99, 63),
        ("inc", "u32", 0, None),
    ],
)
def test_atomics(space, name, kind, start, expected):
    memory, y = np.array([start], np.uint32), words(64)
    place = "[%rd0]"
    before, after = "", ""
    if space == "shared":
        place = "[tile]"
        before = "ld.global.b32 %x, [%rd0]; setp.eq.u32 %p, %thread, 0;"
        before += "@%p st.shared.b32 [tile], %x; bar.sync 0;"
        after = "bar.sync 0; ld.shared.b32 %y, [tile]; @%p st.global.b32 [%rd0], %y;"
    body = f"""{before} atom.{space}.{name}.{kind} %x, {place}, %thread;
    mad.wide.u32 %at, %thread, 4, %rd1; st.global.b32 [%at], %x; {after}"""
    run_body(MINE + body, [memory, y], block=64, declarations=DECLARATIONS)
    if name == "inc":  # back to 0 where the old value is not below the thread's own number
        expected = 0
        for thread in range(64):
            expected = 0 if expected >= thread else expected + 1
    assert memory[0] == expected
    assert y[0] == start


def test_float_atomics_and_compare_and_swap():
    memory = np.zeros(4, np.float32)
    body = "cvt.rn.f32.u32 %f, %thread; red.global.add.f32 [%rd0+8], %f;"
    run_body(MINE + body, [memory], block=64, grid=3, declarations=DECLARATIONS)
    np.testing.assert_array_equal(memory, [0, 0, 3 * sum(range(64)), 0])
    winner = np.array([0], np.uint32)
    body = "add.u32 %x, %thread, 1; atom.global.cas.b32 %y, [%rd0], 0, %x;"
    run_body(MINE + body, [winner], block=64, declarations=DECLARATIONS)
    assert winner[0] == 1


def test_the_same_array_twice_is_one_buffer():
    y = words(64)
    body = """mad.wide.u32 %at, %thread, 4, %rd1; st.global.b32 [%mine], %thread; bar.sync 0;
    ld.global.b32 %x, [%at]; add.u32 %x, %x, 1; st.global.b32 [%at], %x;"""
    run_body(MINE + body, [y, y], block=64, declarations=DECLARATIONS)
    np.testing.assert_array_equal(y, np.arange(64) + 1)
    with pytest.raises(ValueError, match="overlaps"):
        run_body(MINE, [y, y[1:]], declarations=DECLARATIONS)


@pytest.mark.parametrize("grid", [2, 80])
def test_what_one_block_has_read_is_not_forgotten_for_another(grid):
    """The first and the last block, which of 80 do not run at once, read one word; then the last
    one, which is at peace with itself, writes it."""
    body = f"""setp.eq.u32 %p, %all, 0; @%p ld.global.b32 %y, [%rd0]; mov.u32 %x, %ctaid.x;
    setp.eq.u32 %p, %x, {grid - 1}; @%p ld.global.b32 %y, [%rd0]; bar.sync 0;
    setp.eq.u32 %p, %all, {32 * grid - 32}; @%p st.global.b32 [%rd0], 1;"""
    assert failure(body, [words(1)], block=32, grid=grid) is FailureKind.RACE
    alone = body.replace("%all, 0;", "%all, 9999;")
    run_body(MINE + alone, [words(1)], block=32, grid=grid, declarations=DECLARATIONS)


#: Of four warps the first two meet at barrier 1, the others at barrier 2; then by odd and even.
PAIRS = "shr.u32 %x, %thread, 6; add.u32 %x, %x, 1; bar.sync %x, 64;"
CROSSED = "shr.u32 %x, %thread, 5; and.b32 %x, %x, 1; add.u32 %x, %x, 3; bar.sync %x, 64;"
STORE = "st.global.b32 [%mine], %thread;"


def neighbour(step: int) -> str:
    """A read of the word of a thread `step` away."""
    return f"xor.b32 %x, %all, {step}; mad.wide.u32 %at, %x, 4, %rd0; ld.global.b32 %y, [%at];"


@pytest.mark.parametrize("grid", [1, 2])
def test_barriers_of_some_order_those_alone(grid):
    options = {"block": 128, "grid": grid}
    fine = (
        (STORE, PAIRS, neighbour(32)),
        (STORE, CROSSED, neighbour(64)),
        (PAIRS, STORE, CROSSED, neighbour(64)),
    )
    for parts in fine:
        run_body(MINE + "".join(parts), [words(256)], declarations=DECLARATIONS, **options)
    racing = (
        (STORE, PAIRS, neighbour(64)),
        (PAIRS, STORE, CROSSED, neighbour(96)),
        (PAIRS, STORE, PAIRS, neighbour(96)),
    )
    for parts in racing:
        assert failure("".join(parts), [words(256)], **options) is FailureKind.RACE


def test_elements_of_a_buffer_that_is_no_whole_number_of_them():
    y, source = words(1), np.arange(6, dtype=np.uint8)
    body = "ld.global.b32 %x, [%rd1]; st.global.b32 [%rd0], %x;"
    run_body(body, [y, source], block=1, declarations=DECLARATIONS)
    assert y[0] == 0x03020100
    body = body.replace("[%rd1]", "[%rd1+4]")
    assert failure(body, [y, source], block=1) is FailureKind.OUT_OF_BOUNDS
