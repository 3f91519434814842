"""Operands: what of them must be written first, which types fit, and how addresses are formed."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure, UnsupportedPtx
from support_ptx import evaluate, run_body

DECLARATIONS = """.reg .b32 %x, %y, %never; .reg .b64 %wide, %nowhere; .reg .pred %p, %q;
.shared .align 16 .b8 tile[256];
"""


def failure(body: str) -> KernelFailure:
    with pytest.raises(KernelFailure) as caught:
        run_body(body, [np.zeros(64, np.uint32)], declarations=DECLARATIONS)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        "add.u32 %x, %never, 1;",
        "mov.b64 %wide, {%thread, %never};",
        "st.shared.v2.b32 [tile], {%thread, %never};",
        "st.shared.b32 [%never], %thread;",
        "ld.global.b32 %x, [%nowhere+4];",
        "setp.eq.and.u32 %p, %thread, 0, !%q;",
        "@%q mov.u32 %x, 1;",
        "@!%q bra $end; $end:",
        "red.global.add.u32 [%rd0], %never;",
        "red.global.add.u32 [%nowhere], 1;",
        "st.global.b32 [%nowhere], 1;",
        "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%never], {%thread};",
        "cp.async.ca.shared.global [%never], [%rd0], 4;",
    ],
)
def test_what_is_read_was_written(body):
    assert failure(body).kind is FailureKind.UNINITIALISED_REGISTER


def test_a_register_belongs_to_the_threads_that_wrote_it():
    half = "setp.lt.u32 %p, %thread, 5; @%p mov.u32 %x, 1;"
    found = failure(f"{half} add.u32 %y, %x, 1;")
    assert (found.kind, found.thread) == (FailureKind.UNINITIALISED_REGISTER, (5, 0, 0))
    rest = "@!%p mov.u32 %x, 2; add.u32 %d, %x, 0;"
    value = evaluate(half + rest, "u32", [("u32", np.zeros(9))], declarations=".reg .b32 %x;")
    np.testing.assert_array_equal(value, [1] * 5 + [2] * 4)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("mov.b32 %x, %p;", "%p is .pred, not .b32"),
        ("selp.u32 %x, 1, 0, %thread;", "%thread is .b32, not .pred"),
        ("setp.eq.u32 %x, %thread, 1;", "%x is .b32, not .pred"),
        ("add.u32 %p, %thread, 1;", "%p is .pred, not .u32"),
        ("cvt.u64.u32 %x, %thread;", "%x has 32 bits, .u64 needs 64"),
        ("add.u32 5, %thread, 1;", "is no destination"),
        ("ld.shared.b32 %x, %thread;", "is no address"),
        ("add.u32 %x, %thread, 0f3F800000; mov.b16 %x, 0f3F800000;", "does not fit .b16"),
    ],
)
def test_types_must_fit(body, problem):
    with pytest.raises(UnsupportedPtx, match=problem):
        run_body(body, [np.zeros(1)], declarations=DECLARATIONS)


@pytest.mark.parametrize(
    ("text", "value"),
    [("mov.pred %p, 1;", 5), ("mov.pred %p, 0;", 6), ("mov.pred %p, 2;", 5)],
)
def test_constant_predicates(text, value):
    assert evaluate(f"{text} selp.u32 %d, 5, 6, %p;", "u32", [("u32", [0])])[0] == value


@pytest.mark.parametrize(
    ("address", "before"),
    [
        ("8", ""),
        ("4+4", ""),
        ("tile+8", ""),
        ("%place+-4", "mov.u32 %place, 12;"),
        ("%place+20", "mov.u32 %place, 0xFFFFFFF4;"),  # 32 bits wrap
        ("%far+-8", "mov.u64 %far, 16;"),
    ],
)
def test_addresses(address, before):
    body = f"""mov.u32 %place, tile; add.u32 %place, %place, 8; st.shared.b32 [%place], %a;
    {before} ld.shared.b32 %d, [{address}];"""
    declarations = ".reg .b32 %place; .reg .b64 %far; .shared .align 16 .b8 tile[64];"
    assert evaluate(body, "u32", [("u32", [7])], declarations=declarations)[0] == 7


def test_addresses_before_shared_memory_are_nowhere():
    for body in ("mov.u64 %wide, -4; ld.shared.b32 %x, [%wide];", "ld.shared.b32 %x, [0+-4];"):
        assert failure(body).kind is FailureKind.OUT_OF_BOUNDS


def test_a_failure_names_the_first_thread_concerned():
    body = """mul.lo.u32 %x, %thread, 8; st.shared.b32 [%x], 1; setp.eq.u32 %p, %thread, 20;
    @%p add.u32 %x, %x, 4; ld.shared.b32 %y, [%x];"""
    found = failure(body)
    assert (found.kind, found.thread) == (FailureKind.UNINITIALISED_SHARED, (20, 0, 0))
    assert "shared byte 164" in found.detail
