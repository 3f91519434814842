"""Variables, parameters and launch bounds: sizes, places, first values."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import LaunchError, run_kernel
from ptx.declarations import parse_parameters, parse_registers, parse_variable
from ptx.parser import parse_kernel
from support_ptx import HEADER, kernel_text, run_body


@pytest.mark.parametrize(
    ("text", "size", "alignment"),
    [
        (".shared .b8 a", 1, 1),
        (".shared .f32 a", 4, 4),
        (".shared .v4 .f32 a[2]", 32, 16),
        (".shared .align 8 .b32 a[2][3]", 24, 8),
        (".local .b64 a[5]", 40, 8),
        (".extern .shared .align 16 .b8 a[]", None, 16),
    ],
)
def test_variables(text, size, alignment):
    _, variable = parse_variable(text, line=1)
    assert (variable.name, variable.size, variable.alignment) == ("a", size, alignment)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (".const .b8 a[4] = {1, 0x10, 3, 255}", bytes([1, 16, 3, 255])),
        (".global .s16 a[2] = {-1, 2}", b"\xff\xff\x02\x00"),
        (".global .f32 a[2] = {0f3F800000, 2.5}", np.float32([1, 2.5]).tobytes()),
        (".const .f64 a[1] = {2.5}", np.float64([2.5]).tobytes()),
    ],
)
def test_first_values(text, data):
    assert parse_variable(text, line=1)[1].initial == data


def test_parameters_are_aligned():
    text = ".param .u8 a, .param .u64 b, .param .align 16 .b8 c[20], .param .f32 d"
    places = [(p.name, p.offset, p.size) for p in parse_parameters(text, line=1)]
    assert places == [("a", 0, 1), ("b", 8, 8), ("c", 16, 20), ("d", 36, 4)]


def test_registers():
    found = parse_registers(".reg .b32 %r<3>, a, %q<1>", line=1)
    assert [name for name, _ in found] == ["%r0", "%r1", "%r2", "a", "%q0"]
    assert {kind.name for _, kind in found} == {"b32"}


@pytest.mark.parametrize(
    ("directive", "most"),
    [("", 1024), (".maxntid 96", 96), (".maxntid 8, 4, 3", 96), (".reqntid 32, 3", 96)],
)
def test_launch_bounds(directive, most):
    text = f"{HEADER}.visible .entry k()\n{directive}\n{{ ret; }}"
    assert run_kernel(text, "k", 1, most, []).count("ret") == -(-most // 32)
    for block in (most + 1, (1, 2, most)):
        with pytest.raises(LaunchError, match=f"at most {most} are allowed"):
            run_kernel(text, "k", 1, block, [])


def test_variables_lie_apart_and_aligned():
    """Each kind of memory begins anew; every word keeps what was written to it."""
    declarations = """.reg .b32 %x, %y; .shared .b8 byte; .shared .b32 word; .shared .b64 long;
    .shared .b8 last; .local .b8 own; .local .b32 place; .extern .shared .align 16 .b8 dynamic[];"""
    body = """st.shared.u8 [byte], 1; st.shared.b32 [word], 2; st.shared.v2.b32 [long], {3, 4};
    st.shared.u8 [last], 77;
    st.shared.v4.b32 [dynamic], {5, 6, 7, 8}; st.shared.b32 [dynamic+16], 9;
    st.local.u8 [own], 1; st.local.b32 [place], 2;
    ld.shared.u8 %x, [byte]; ld.shared.b32 %y, [word]; add.u32 %x, %x, %y;
    ld.shared.b32 %y, [long+4]; add.u32 %x, %x, %y; ld.shared.b32 %y, [dynamic]; add.u32 %x, %x, %y;
    st.global.b32 [%rd0], %x;"""
    y = np.zeros(1, np.uint32)
    run_body(body, [y], block=1, declarations=declarations, shared_bytes=20)
    assert y[0] == 1 + 2 + 4 + 5
    with pytest.raises(Exception, match="out of bounds: shared bytes 48..51 of 48"):
        run_body(body, [y], block=1, declarations=declarations, shared_bytes=16)


MODULE = f"""{HEADER}
.shared .align 4 .b8 outer[64];
.global .b32 zeros[2];
.visible .entry other()
{{
    .shared .align 4 .b8 inner[4096];
    ret;
}}
.visible .entry k(.param .u64 y)
{{
    .reg .b64 %y; .reg .b32 %x, %z;
    .shared .align 4 .b8 own[16];
    ld.param.u64 %y, [y];
    st.shared.b32 [outer+60], 5; st.shared.b32 [own+12], 6;
    ld.shared.b32 %x, [outer+60]; ld.global.b32 %z, [zeros+4]; add.u32 %x, %x, %z;
    st.global.b32 [%y], %x;
    ret;
}}
"""


def test_variables_of_the_module_and_of_the_kernel():
    names = {name: {v.name for v in parse_kernel(MODULE, name).shared} for name in ("k", "other")}
    assert names == {"k": {"own", "outer"}, "other": {"inner", "outer"}}
    y = np.zeros(1, np.uint32)
    run_kernel(MODULE, "k", 1, 1, [y])
    assert y[0] == 5


ARGUMENT = kernel_text("st.global.b32 [%rd0], %x;", num_buffers=1, declarations=".reg .b32 %x;")


def argument_text(kind: str) -> str:
    return ARGUMENT.replace("(.param .u64 p0)", f"(.param .u64 p0, .param .{kind} p1)").replace(
        "st.global", "ld.param.b32 %x, [p1]; st.global"
    )


@pytest.mark.parametrize(
    ("kind", "value", "bits"),
    [
        ("u32", 7, 7),
        ("u32", -5, 2**32 - 5),
        ("u32", 2**32 - 1, 2**32 - 1),
        ("s32", -5, 2**32 - 5),
        ("f32", 1.5, 0x3FC00000),
        ("f32", np.float32(1.5), 0x3FC00000),
        ("b32", np.uint16([1, 2]).tobytes(), 0x00020001),
    ],
)
def test_numbers_are_passed_by_value(kind, value, bits):
    y = np.zeros(1, np.uint32)
    run_kernel(argument_text(kind), "k", 1, 1, [y, value])
    assert y[0] == bits


@pytest.mark.parametrize("value", [np.float64(1), b"123", np.uint16(3)])
def test_arguments_of_another_width_are_refused(value):
    with pytest.raises(LaunchError, match="p1: argument of . bytes, needed 4"):
        run_kernel(argument_text("u32"), "k", 1, 1, [np.zeros(1, np.uint32), value])


@pytest.mark.parametrize("grid", [0, -1, (1, 1, 1, 1), (2, 0)])
def test_impossible_grids_are_refused(grid):
    with pytest.raises(LaunchError, match="one to three positive numbers"):
        run_kernel(ARGUMENT, "k", grid, 1, [np.zeros(1, np.uint32)])


def test_arrays_that_are_not_one_piece_are_refused():
    whole = np.zeros(8, np.uint32)
    with pytest.raises(ValueError, match="p0: the array is not contiguous"):
        run_kernel(argument_text("u32"), "k", 1, 1, [whole[::2], 1])
    for part in (whole[:4], whole[4:]):
        with pytest.raises(ValueError, match="p1 overlaps p0"):
            run_body("", [whole, part])
