"""Order of accesses to shared memory: races, barriers, asynchronous copies, bank conflicts."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure
from support_ptx import run_body

DECLARATIONS = """.reg .b32 %x, %y, %mine, %other, %bytes, %warp; .reg .b64 %at, %from;
.reg .pred %p, %q; .shared .align 16 .b8 tile[4096];"""

#: %mine and %other: addresses of this thread's and of its mirror's word in a block of 64.
ADDRESSES = """mov.u32 %x, tile; mad.lo.u32 %mine, %thread, 4, %x;
xor.b32 %y, %thread, 63; mad.lo.u32 %other, %y, 4, %x; shr.u32 %warp, %thread, 5;
mad.wide.u32 %at, %thread, 4, %rd0; setp.eq.u32 %p, %warp, 0;
"""
WRITE = "st.shared.b32 [%mine], %thread;"
READ = "ld.shared.b32 %x, [%other];"
KEEP = "st.global.b32 [%at], %x;"
BARRIER = "bar.sync 0;"


def run(*parts: str, block: int = 64, grid: int = 1):
    y = np.zeros(block * grid, np.uint32)
    body = ADDRESSES + "\n".join(parts)
    report = run_body(body, [y], block=block, grid=grid, declarations=DECLARATIONS)
    return y, report


def failure(*parts: str, **options) -> FailureKind:
    with pytest.raises(KernelFailure) as caught:
        run(*parts, **options)
    return caught.value.kind


def test_exchange_through_a_barrier():
    y, _ = run(WRITE, BARRIER, READ, KEEP)
    np.testing.assert_array_equal(y, np.arange(64)[::-1])


def test_read_after_write_needs_a_barrier():
    # A second barrier elsewhere does not help; each warp's own words are in order.
    initial = "st.shared.b32 [%mine], 0; bar.sync 0;"
    assert failure(initial, WRITE, READ, KEEP) is FailureKind.RACE
    assert failure(WRITE, BARRIER, WRITE, READ, BARRIER) is FailureKind.RACE
    y, _ = run(WRITE, "ld.shared.b32 %x, [%mine];", KEEP)
    np.testing.assert_array_equal(y, np.arange(64))


def test_write_after_read_needs_a_barrier():
    assert failure(WRITE, BARRIER, READ, KEEP, WRITE) is FailureKind.RACE
    run(WRITE, BARRIER, READ, BARRIER, WRITE)


def test_write_after_write_needs_a_barrier():
    assert failure(WRITE, "st.shared.b32 [%other], 1;") is FailureKind.RACE
    run(WRITE, BARRIER, "st.shared.b32 [%other], 1;")


def test_two_warps_may_not_write_one_word_in_one_instruction():
    assert failure("mov.u32 %mine, tile;", WRITE) is FailureKind.RACE


def test_threads_of_a_warp_may_write_one_word_only_alike():
    same = "mov.u32 %mine, tile; st.shared.b32 [%mine], 5; bar.warp.sync -1;"
    y, _ = run(same, "ld.shared.b32 %x, [%mine];", KEEP, block=32)
    np.testing.assert_array_equal(y, 5)
    assert failure("mov.u32 %mine, tile;", WRITE, block=32) is FailureKind.RACE


WARP_BARRIER = "bar.warp.sync 0xffffffff;"
MIRROR = "xor.b32 %y, %thread, 31; mov.u32 %x, tile; mad.lo.u32 %other, %y, 4, %x;"


def test_lanes_of_a_warp_need_a_barrier_of_the_warp():
    y, _ = run(WRITE, MIRROR, WARP_BARRIER, READ, KEEP)
    np.testing.assert_array_equal(y, np.arange(64) ^ 31)
    assert failure(WRITE, MIRROR, READ, KEEP) is FailureKind.RACE
    assert failure(WRITE, MIRROR, WARP_BARRIER, READ, WRITE) is FailureKind.RACE
    run(WRITE, MIRROR, WARP_BARRIER, READ, WARP_BARRIER, WRITE)
    # All lanes read one word; then one of them, which has read it too, writes it.
    broadcast = "mov.u32 %other, tile;" + READ + "setp.eq.u32 %q, %thread, 0;"
    again = "@%q st.shared.b32 [%other], 1;"
    one_warp = {"block": 32}
    assert failure(WRITE, WARP_BARRIER, broadcast, again, **one_warp) is FailureKind.RACE
    run(WRITE, WARP_BARRIER, broadcast, WARP_BARRIER, again, **one_warp)
    # It orders no other warp.
    far = "xor.b32 %y, %thread, 63; mad.lo.u32 %other, %y, 4, %x;"
    assert failure(WRITE, WARP_BARRIER, MIRROR, far, READ) is FailureKind.RACE


def test_neighbouring_halves_of_a_word_do_not_race():
    y, _ = run(
        "mov.u32 %x, tile; mad.lo.u32 %mine, %thread, 2, %x; st.shared.u16 [%mine], %thread;",
        BARRIER,
        "shr.u32 %y, %thread, 1; mad.lo.u32 %other, %y, 4, %x; ld.shared.b32 %x, [%other];",
        KEEP,
    )
    pairs = np.arange(64) // 2 * 2
    np.testing.assert_array_equal(y, pairs | (pairs + 1) << 16)


def test_never_written():
    assert failure(READ) is FailureKind.UNINITIALISED_SHARED
    half = "st.shared.u16 [%mine], %thread;"
    assert failure(half, "ld.shared.b32 %x, [%mine];") is FailureKind.UNINITIALISED_SHARED
    assert failure("add.u32 %x, %y, %bytes;") is FailureKind.UNINITIALISED_REGISTER
    only_some = "@%p mov.u32 %bytes, 1;\nadd.u32 %x, %bytes, 1;"
    assert failure(only_some) is FailureKind.UNINITIALISED_REGISTER
    run("@%p mov.u32 %bytes, 1;\n@%p add.u32 %x, %bytes, 1;")


def test_blocks_have_their_own_memory():
    y, _ = run(
        "mov.u32 %bytes, %ctaid.x; mad.lo.u32 %x, %bytes, 64, %thread; st.shared.b32 [%mine], %x;",
        BARRIER,
        READ,
        "mul.wide.u32 %from, %bytes, 256; add.s64 %at, %at, %from;",
        KEEP,
        grid=50,
    )
    np.testing.assert_array_equal(y.reshape(50, 64), np.arange(50 * 64).reshape(50, 64)[:, ::-1])


# ---- barriers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        "@%p bar.sync 0;",
        "@%p bra $skip;\nbar.sync 0;\n$skip:",
        "@%p bra $one;\nbar.sync 0;\nbra $end;\n$one:\nbar.sync 0;\n$end:",
        "setp.lt.u32 %q, %thread, 5;\n@%q bra $skip;\nbar.sync 0;\n$skip:",
        "@%p exit;\nbar.sync 0;",
    ],
)
def test_every_thread_must_reach_the_same_barrier(parts):
    assert failure(parts) is FailureKind.DIVERGENT_BARRIER


def test_a_barrier_in_a_loop_that_one_warp_leaves_early():
    loop = """mov.u32 %bytes, 0; selp.u32 %y, 2, 3, %p;
$loop:
    bar.sync 0;
    add.u32 %bytes, %bytes, 1;
    setp.lt.u32 %q, %bytes, %y;
    @%q bra $loop;"""
    assert failure(loop) is FailureKind.DIVERGENT_BARRIER
    _, report = run(loop.replace("2, 3", "3, 3"))
    assert report.count("bar.sync", report.loops[0]) == 3 * 2


def test_named_barriers_order_only_those_who_meet():
    # Warps 0 and 1 meet at barrier 1; warps 2 and 3 at barrier 2, in the same instruction.
    meet = """shr.u32 %x, %warp, 1; add.u32 %x, %x, 1;
    bar.sync %x, 64;"""
    near = "xor.b32 %y, %thread, 32; mov.u32 %x, tile; mad.lo.u32 %other, %y, 4, %x;"
    y, _ = run(WRITE, meet, near, READ, KEEP, block=128)
    np.testing.assert_array_equal(y, np.arange(128) ^ 32)
    far = near.replace(", 32;", ", 64;")
    assert failure(WRITE, meet, far, READ, KEEP, block=128) is FailureKind.RACE


# ---- asynchronous copies -----------------------------------------------------------------------

COPY = "mad.wide.u32 %from, %thread, 4, %rd0; cp.async.ca.shared.global [%mine], [%from], 4;"
COMMIT = "cp.async.commit_group;"
WAIT = "cp.async.wait_group 0;"


@pytest.mark.parametrize("wait", [f"{COMMIT} {WAIT}", "cp.async.wait_all;"])
def test_copy_wait_barrier_read(wait):
    x = np.arange(64, dtype=np.uint32) + 7
    y = np.zeros(64, np.uint32)
    keep = "mad.wide.u32 %at, %thread, 4, %rd1; st.global.b32 [%at], %x;"
    body = ADDRESSES + COPY + wait + BARRIER + READ + keep
    run_body(body, [x, y], block=64, declarations=DECLARATIONS)
    np.testing.assert_array_equal(y, x[::-1])


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ((COPY, COMMIT, BARRIER, READ), FailureKind.ASYNC_NOT_WAITED),
        ((COPY, COMMIT, "ld.shared.b32 %x, [%mine];"), FailureKind.ASYNC_NOT_WAITED),
        ((COPY, COMMIT, WRITE), FailureKind.ASYNC_NOT_WAITED),
        ((COPY, WAIT, BARRIER, READ), FailureKind.ASYNC_NOT_WAITED),
        ((COPY, COMMIT, "cp.async.wait_group 1;", BARRIER, READ), FailureKind.ASYNC_NOT_WAITED),
        ((COPY, COMMIT, WAIT, READ), FailureKind.RACE),
        ((WRITE, BARRIER, READ, COPY), FailureKind.RACE),
    ],
)
def test_copies_are_not_there_before_wait_and_barrier(parts, kind):
    assert failure(*parts) is kind


def test_groups_are_waited_for_in_order():
    second = COPY.replace("[%mine]", "[%mine+1024]").replace("cp.async", "\ncp.async")
    older = (COPY, COMMIT, second, COMMIT, "cp.async.wait_group 1;", BARRIER)
    run(*older, READ)
    newer = READ.replace("[%other]", "[%other+1024]")
    assert failure(*older, newer) is FailureKind.ASYNC_NOT_WAITED


@pytest.mark.parametrize("size", [0, 5, 16])
def test_bytes_past_the_source_size_are_zero_and_not_read(size):
    # The source has only `size` bytes for the last thread.
    x = np.arange(16 * 3 + size, dtype=np.uint8) + 1
    y = np.zeros((4, 16), np.uint8)
    body = f"""mov.u32 %x, tile; mad.lo.u32 %mine, %thread, 16, %x;
    mul.wide.u32 %from, %thread, 16; add.s64 %at, %rd1, %from; add.s64 %from, %rd0, %from;
    setp.eq.u32 %p, %thread, 3; selp.u32 %bytes, {size}, 16, %p;
    cp.async.cg.shared.global.L2::128B [%mine], [%from], 16, %bytes; cp.async.wait_all;
    ld.shared.v4.b32 {{%x, %y, %other, %warp}}, [%mine];
    st.global.v4.b32 [%at], {{%x, %y, %other, %warp}};"""
    run_body(body, [x, y], block=4, declarations=DECLARATIONS)
    np.testing.assert_array_equal(y[:3].reshape(-1), x[:48])
    np.testing.assert_array_equal(y[3], [*x[48:], *[0] * (16 - size)])


# ---- bank conflicts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "stride", "expected"),
    [
        ("b32", 4, 1),
        ("b32", 8, 2),
        ("b32", 128, 32),
        ("b32", 0, 1),
        ("b32", 132, 1),
        ("u8", 1, 1),
        ("u16", 2, 1),
        ("b64", 8, 2),
        ("b64", 128, 32),
        ("v2.b32", 16, 4),
        ("v4.b32", 16, 4),
        ("v4.b32", 128, 32),
        ("v4.b32", 48, 4),
    ],
)
def test_wavefronts(width, stride, expected):
    lanes = int(width[1]) if width[0] == "v" else 1
    items = ", ".join(["%x", "%y", "%other", "%warp"][:lanes])
    target = f"{{{items}}}" if lanes > 1 else ("%at" if width == "b64" else "%x")
    body = f"""mov.u32 %x, tile; mad.lo.u32 %mine, %thread, {stride}, %x;
    mov.u32 %y, 0; mov.u32 %other, 0; mov.u32 %warp, 0; mov.u64 %at, 0; mov.u32 %x, 0;
    st.shared.{width} [%mine], {target}; bar.warp.sync -1; ld.shared.{width} {target}, [%mine];"""
    report = run_body(body, [np.zeros(1)], declarations=DECLARATIONS)
    for name in ("st.shared", "ld.shared"):
        assert report.wavefronts(name).found == expected
    least = {"b64": 2, "v2.b32": 2, "v4.b32": 4}.get(width, 1)
    assert report.wavefronts().least == 2 * least
