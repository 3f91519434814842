"""Local memory: each thread's own, within its bounds, and written before it is read."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure
from support_ptx import run_body

DECLARATIONS = """.reg .b32 %x, %y; .reg .b64 %mine, %s, %wide;
.local .align 8 .b8 depot[24]; .local .b32 word;"""
MINE = "mad.wide.u32 %mine, %thread, 4, %rd0;"


def run(body: str) -> np.ndarray:
    y = np.zeros(40, np.uint32)
    run_body(MINE + body, [y], block=40, declarations=DECLARATIONS)
    return y


@pytest.mark.parametrize(
    "write", ["st.u32 [%s+8], %thread;", "st.local.u32 [depot+8], %thread;"], ids=["generic", "own"]
)
@pytest.mark.parametrize(
    "read", ["ld.u32 %x, [%s+8];", "ld.local.u32 %x, [depot+8];"], ids=["generic", "own"]
)
def test_every_thread_has_its_own(write, read):
    begin = "mov.u64 %s, depot; cvta.local.u64 %s, %s; st.local.u32 [word], 3;"
    found = run(f"{begin} {write} {read} st.global.b32 [%mine], %x;")
    np.testing.assert_array_equal(found, np.arange(40))


def test_addresses_are_converted_back():
    body = """mov.u64 %s, word; cvta.local.u64 %s, %s; cvta.to.local.u64 %s, %s;
    st.local.u32 [%s], 8; ld.local.u32 %x, [word]; st.global.b32 [%mine], %x;"""
    np.testing.assert_array_equal(run(body), 8)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("ld.local.u32 %x, [depot];", FailureKind.UNINITIALISED_REGISTER),
        # Half of what is read was written, by one word of two or by the first of two threads.
        (
            "st.local.b32 [depot], 1; ld.local.v2.b32 {%x, %y}, [depot];",
            FailureKind.UNINITIALISED_REGISTER,
        ),
        (
            "st.local.b32 [depot], 1; ld.local.b64 %wide, [depot];",
            FailureKind.UNINITIALISED_REGISTER,
        ),
        # Variables lie one after the other: 24 bytes, then 4; the next 4 belong to nobody.
        ("st.local.b32 [word+4], 1;", FailureKind.OUT_OF_BOUNDS),
        ("ld.local.b32 %x, [depot+-4];", FailureKind.OUT_OF_BOUNDS),
        ("st.local.v2.b32 [depot+24], {%thread, %thread};", FailureKind.OUT_OF_BOUNDS),
        ("st.local.b32 [depot+6], 1;", FailureKind.MISALIGNED),
        ("st.local.v2.b32 [depot+4], {%thread, %thread};", FailureKind.MISALIGNED),
    ],
)
def test_accesses_are_checked(body, kind):
    with pytest.raises(KernelFailure) as caught:
        run(body)
    assert caught.value.kind is kind


def test_vectors_are_written_whole():
    body = """st.local.v2.b32 [depot], {%thread, 5}; ld.local.b32 %x, [depot+4];
    ld.local.b32 %y, [depot]; add.u32 %x, %x, %y; st.global.b32 [%mine], %x;"""
    np.testing.assert_array_equal(run(body), np.arange(40) + 5)
