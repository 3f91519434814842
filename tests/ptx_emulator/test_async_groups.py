"""cp.async: groups are each thread's own, sizes, predicates, and what of it is counted."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure, UnsupportedPtx
from support_ptx import run_body

DECLARATIONS = """.reg .b32 %x, %y, %mine, %other; .reg .b64 %at, %from, %long; .reg .pred %p;
.shared .align 16 .b8 tile[4096];"""
#: %p: the first of two warps; %other: the word of the same lane of the other warp.
BEGIN = """mov.u32 %x, tile; mad.lo.u32 %mine, %thread, 4, %x; xor.b32 %y, %thread, 32;
mad.lo.u32 %other, %y, 4, %x; setp.lt.u32 %p, %thread, 32; mad.wide.u32 %from, %thread, 4, %rd0;
cp.async.ca.shared.global [%mine], [%from], 4;
"""
COMMIT = "cp.async.commit_group;"
WAIT = "cp.async.wait_group 0;"
BARRIER = "bar.sync 0;"
OWN, OTHER = "ld.shared.b32 %y, [%mine];", "ld.shared.b32 %y, [%other];"


def run(*parts: str):
    source = np.arange(64, dtype=np.uint32)
    return run_body(BEGIN + "".join(parts), [source], block=64, declarations=DECLARATIONS)


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        # Half of the threads never commit, or never wait: the others do it for themselves alone.
        ((f"@%p {COMMIT}", WAIT, OWN), FailureKind.ASYNC_NOT_WAITED),
        ((COMMIT, f"@%p {WAIT}", BARRIER, OWN), FailureKind.ASYNC_NOT_WAITED),
        # A copy is written when it is waited for, not when it begins.
        ((COMMIT, BARRIER, WAIT, OTHER), FailureKind.RACE),
        # Finishing one group leaves the next one under way.
        (
            (COMMIT, "cp.async.ca.shared.global [%mine+512], [%from], 4;", COMMIT)
            + ("cp.async.wait_group 1;", "ld.shared.b32 %y, [%mine+512];"),
            FailureKind.ASYNC_NOT_WAITED,
        ),
        ((COMMIT, "atom.shared.add.u32 %y, [%mine], 1;"), FailureKind.ASYNC_NOT_WAITED),
        ((COMMIT, "cp.async.ca.shared.global [%mine], [%from], 4;"), FailureKind.ASYNC_NOT_WAITED),
    ],
)
def test_each_thread_waits_for_its_own_copies(parts, kind):
    with pytest.raises(KernelFailure) as caught:
        run(*parts)
    assert caught.value.kind is kind


def test_who_has_waited_may_read():
    run(COMMIT, f"@%p {WAIT}", f"@!%p {WAIT}", OWN)
    run(COMMIT, f"@%p {WAIT}", f"@%p {OWN}")
    second = "cp.async.ca.shared.global [%mine+512], [%from], 4;"
    run(COMMIT, second, COMMIT, "cp.async.wait_group 1;", OWN, WAIT, OWN.replace("]", "+512]"))


def test_narrow_copies_are_seen_by_wide_loads():
    """Two copies of 4 bytes make the 8 of a load; one does not."""
    source = np.array([3, 5], np.uint32)
    y = np.zeros(1, np.uint64)
    copy = "cp.async.ca.shared.global [tile+{place}], [%rd0+{place}], 4;"
    load = "cp.async.wait_all; ld.shared.b64 %long, [tile]; st.global.b64 [%rd1], %long;"
    both = copy.format(place=0) + copy.format(place=4)
    run_body(both + load, [source, y], block=1, declarations=DECLARATIONS)
    assert y[0] == 5 << 32 | 3
    with pytest.raises(KernelFailure) as caught:
        run_body(copy.format(place=0) + load, [source, y], block=1, declarations=DECLARATIONS)
    assert caught.value.kind is FailureKind.UNINITIALISED_SHARED


@pytest.mark.parametrize(("last", "expected"), [("%p", 0), ("4", 7), ("99", 7), ("0", 0)])
def test_source_size_or_ignored_source(last, expected):
    source, y = np.array([7], np.uint32), np.ones(1, np.uint32)
    body = f"""setp.eq.u32 %p, %thread, 0;
    cp.async.ca.shared.global [tile], [%rd0], 4, {last};
    cp.async.wait_all; ld.shared.b32 %x, [tile]; st.global.b32 [%rd1], %x;"""
    run_body(body, [source, y], block=1, declarations=DECLARATIONS)
    assert y[0] == expected
    body = body.replace("%thread, 0", "%thread, 1")
    run_body(body, [source, y], block=1, declarations=DECLARATIONS)
    assert y[0] == (7 if last == "%p" else expected)


def test_sizes():
    source = np.arange(4, dtype=np.uint32)
    y = np.zeros(4, np.uint32)
    body = """cp.async.{kind}.shared.global [tile], [%rd0], {size}; cp.async.wait_all;
    ld.shared.b32 %x, [tile+{last}]; st.global.b32 [%rd1], %x;"""
    for kind, size in (("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)):
        text = body.format(kind=kind, size=size, last=size - 4)
        run_body(text, [source, y], block=1, declarations=DECLARATIONS)
        assert y[0] == size // 4 - 1
    for kind, size in (("cg", 4), ("cg", 8), ("ca", 12), ("ca", 32)):
        with pytest.raises(UnsupportedPtx, match=f"copies of {size} bytes"):
            text = body.format(kind=kind, size=size, last=0)
            run_body(text, [source, y], block=1, declarations=DECLARATIONS)


def test_targets_are_counted_as_wavefronts():
    body = """mov.u32 %x, tile; mad.lo.u32 %mine, %thread, 128, %x;
    cp.async.ca.shared.global [%mine], [%rd0], 4; cp.async.wait_all;"""
    report = run_body(body, [np.zeros(1, np.uint32)], declarations=DECLARATIONS)
    found = report.wavefronts("cp.async.ca")
    assert (found.found, found.least) == (32, 1)
