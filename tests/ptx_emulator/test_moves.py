"""mov, ld, st, cvta in every space, widths and vectors, and their checks."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure, UnsupportedPtx, run_kernel
from support_ptx import HEADER, evaluate, run_body


def failure(body: str, buffers: list[np.ndarray], **options) -> FailureKind:
    with pytest.raises(KernelFailure) as caught:
        run_body(body, buffers, **options)
    return caught.value.kind


def test_packing_and_unpacking():
    words = np.array([0x0123456789ABCDEF, 0xFEDCBA9876543210], np.uint64)
    body = "mov.b64 {%l, %h}, %a;\nmov.b64 %d, {%h, %l};"
    found = evaluate(body, "b64", [("b64", words)], declarations=".reg .b32 %l, %h;")
    np.testing.assert_array_equal(found, (words << np.uint64(32)) | (words >> np.uint64(32)))
    body = "mov.b64 {%w, %x, %y, %z}, %a;\nmov.b64 %d, {%z, %x, %w, %w};"
    found = evaluate(body, "b64", [("b64", words)], declarations=".reg .b16 %w, %x, %y, %z;")
    np.testing.assert_array_equal(found, np.uint64([0xCDEFCDEF89AB0123, 0x321032107654FEDC]))
    body = "{.reg .b16 l; mov.b32 {l, _}, %a; mov.b32 %d, {l, l};}"
    np.testing.assert_array_equal(evaluate(body, "b32", [("b32", [0x12345678])]), [0x56785678])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("mov.u32 %d, 0x1F;", 31),
        ("mov.u32 %d, 017;", 15),
        ("mov.u32 %d, 0b101;", 5),
        ("mov.u32 %d, -1;", 0xFFFFFFFF),
        ("mov.u32 %d, 42U;", 42),
        ("mov.u32 %d, ~5;", 0xFFFFFFFA),
        ("mov.u32 %d, 0XFF;", 255),
        ("mov.f32 %d, 0f3F800000;", 0x3F800000),
        ("mov.f32 %d, 1.5;", 0x3FC00000),
        ("mov.f32 %d, 0d4000000000000000;", 0x40000000),
        ("mov.b32 %d, 0f7FFFFFFF;", 0x7FFFFFFF),
        ("mov.u32 %d, %ntid.x;", 1),
        ("mov.u32 %d, %nctaid.x;", 1),
    ],
)
def test_constants(text, value):
    assert evaluate(text, "u32", [("u32", [0])])[0] == value


@pytest.mark.parametrize("kind", ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f32"])
@pytest.mark.parametrize("load", ["ld.global", "ldu.global"])
def test_loads_extend_and_stores_cut(load, kind):
    dtype = np.dtype(f"{kind[0].replace('s', 'i')}{int(kind[1:]) // 8}")
    values = np.array([0, 1, 100, 127, 0 if kind[0] == "u" else -1], dtype)
    y = np.zeros(5, np.int64 if kind[0] != "f" else np.float32)
    body = f"""mul.wide.u32 %at, %thread, {dtype.itemsize};
    add.s64 %at, %at, %rd0;
    {load}.{kind} %x, [%at];
    mul.wide.u32 %at, %thread, {y.itemsize};
    add.s64 %at, %at, %rd1;
    st.global.b{8 * y.itemsize} [%at], %x;"""
    run_body(body, [values, y], block=5, declarations=f".reg .b64 %at; .reg .b{8 * y.itemsize} %x;")
    np.testing.assert_array_equal(y, values)


@pytest.mark.parametrize("lanes", [2, 4])
@pytest.mark.parametrize("space", ["global", "shared", "local"])
def test_vectors_in_every_space(lanes, space):
    x = np.arange(32 * lanes, dtype=np.uint32)
    y = np.zeros_like(x)
    registers = ", ".join(f"%v{i}" for i in range(lanes))
    others = ", ".join(f"%w{i}" for i in range(lanes))
    size = 4 * lanes
    through = ""
    if space == "shared":
        through = f"st.shared.v{lanes}.b32 [%place], {{{registers}}};"
        through += f"ld.shared.v{lanes}.b32 {{{others}}}, [%place];"
    elif space == "local":
        through = f"st.local.v{lanes}.b32 [depot+16], {{{registers}}};"
        through += f"ld.local.v{lanes}.b32 {{{others}}}, [depot+16];"
    body = f"""mul.lo.u32 %place, %thread, {size};
    cvt.u64.u32 %at, %place;
    add.s64 %rd2, %rd0, %at;
    add.s64 %rd3, %rd1, %at;
    ld.global.nc.v{lanes}.b32 {{{registers}}}, [%rd2];
    {through}
    st.global.v{lanes}.b32 [%rd3], {{{others if through else registers}}};"""
    declarations = """.reg .b32 %place, %v<4>, %w<4>; .reg .b64 %at;
    .local .align 16 .b8 depot[32];"""
    run_body(body, [x, y], declarations=declarations + SHARED, shared_bytes=32 * size)
    np.testing.assert_array_equal(y, x)


SHARED = ".extern .shared .align 16 .b8 dynamic[];"
PLACES = ".reg .b32 %x, %y, %place; .reg .b64 %at, %s;" + SHARED


def test_generic_addresses_know_their_space():
    y = np.zeros(32, np.uint32)
    body = """mul.wide.u32 %at, %thread, 4;
    mov.u64 %s, dynamic;
    cvta.shared.u64 %s, %s;
    add.s64 %s, %s, %at;
    st.b32 [%s], %thread;
    ld.b32 %x, [%s];
    cvta.to.shared.u64 %s, %s;
    ld.shared.b32 %y, [%s];
    add.u32 %x, %x, %y;
    cvta.to.global.u64 %rd1, %rd0;
    add.s64 %at, %rd1, %at;
    st.b32 [%at], %x;"""
    run_body(body, [y], declarations=PLACES, shared_bytes=128)
    np.testing.assert_array_equal(y, 2 * np.arange(32))


def test_tables_in_constant_and_global_memory():
    text = f"""{HEADER}
.const .align 4 .b32 table[4] = {{1, 0x10, 3, 4}};
.visible .global .align 4 .f32 factors[2] = {{0f3F800000, 2.5}};
.visible .entry k(.param .u64 y) {{
    .reg .b64 %p, %at; .reg .b32 %t, %i; .reg .f32 %f, %g;
    ld.param.u64 %p, [y];
    mov.u32 %t, %tid.x;
    mul.wide.u32 %at, %t, 4;
    add.s64 %p, %p, %at;
    ld.global.f32 %f, [factors+4];
    mov.u64 %at, table;
    mad.wide.u32 %at, %t, 4, %at;
    ld.const.b32 %i, [%at];
    cvt.rn.f32.u32 %g, %i;
    mul.f32 %f, %f, %g;
    st.global.f32 [%p], %f;
    ret;
}}"""
    y = np.zeros(4, np.float32)
    run_kernel(text, "k", 1, 4, [y])
    np.testing.assert_array_equal(y, [2.5, 40, 7.5, 10])


def test_structures_as_parameters():
    text = f"""{HEADER}.visible .entry k(.param .u64 y, .param .align 8 .b8 s[24]) {{
    .reg .b64 %p, %a; .reg .b32 %x, %y;
    ld.param.u64 %p, [y];
    ld.param.v2.b32 {{%x, %y}}, [s+16];
    st.global.v2.b32 [%p], {{%y, %x}};
    mov.b64 %a, s;
    ld.param.b32 %x, [%a+4];
    st.global.b32 [%p+8], %x;
    ret; }}"""
    y = np.zeros(3, np.int32)
    run_kernel(text, "k", 1, 1, [y, np.arange(6, dtype=np.int32).tobytes()])
    np.testing.assert_array_equal(y, [5, 4, 1])


LOAD = "mul.wide.u32 %at, %thread, {step}; add.s64 %at, %at, %rd0; ld.global.{kind} {to}, [%at];"


def test_the_last_bytes_of_a_buffer_are_its_end():
    half = np.zeros(6, np.uint8)
    body = "ld.global.b32 %x, [%rd0+4];"
    assert failure(body, [half], declarations=PLACES, block=1) is FailureKind.OUT_OF_BOUNDS


def test_global_bounds_and_alignment():
    x = np.zeros(31, np.uint32)
    one = LOAD.format(step=4, kind="b32", to="%x")
    assert failure(one, [x], declarations=PLACES) is FailureKind.OUT_OF_BOUNDS
    run_body(one, [np.zeros(32, np.uint32)], declarations=PLACES)
    two = LOAD.format(step=4, kind="v2.b32", to="{%x, %y}")
    assert failure(two, [np.zeros(99, np.uint32)], declarations=PLACES) is FailureKind.MISALIGNED
    below = "ld.global.b32 %x, [%rd0+-4];"
    assert failure(below, [x], declarations=PLACES) is FailureKind.OUT_OF_BOUNDS
    for address in (16, 5 << 40, (5 << 40) + 4):
        with pytest.raises(KernelFailure, match=f"{address:#x} is in no buffer") as caught:
            nowhere = f"mov.u64 %at, {address}; ld.global.b32 %x, [%at];"
            run_body(nowhere, [x], declarations=PLACES)
        assert caught.value.kind is FailureKind.OUT_OF_BOUNDS


def test_a_truncated_address_meets_no_buffer():
    body = "cvt.u32.u64 %x, %rd0; cvt.u64.u32 %at, %x; ld.global.b32 %x, [%at];"
    assert failure(body, [np.zeros(9, np.uint32)], declarations=PLACES) is FailureKind.OUT_OF_BOUNDS


def test_shared_bounds_and_alignment():
    y = [np.zeros(1, np.uint32)]
    for place, kind, size in (
        ("128", FailureKind.OUT_OF_BOUNDS, 128),
        ("126", FailureKind.MISALIGNED, 128),
        ("124", None, 128),
        ("124", FailureKind.OUT_OF_BOUNDS, 127),
        ("0xFFFFFFFC", FailureKind.OUT_OF_BOUNDS, 128),
    ):
        body = f"mov.u32 %place, {place}; st.shared.b32 [%place], 7;"
        if kind is None:
            report = run_body(body, y, declarations=PLACES, shared_bytes=size)
            assert report.count("st.shared") == 1
        else:
            assert failure(body, y, declarations=PLACES, shared_bytes=size) is kind


def test_what_is_not_writable_is_not_written():
    y = np.zeros(1, np.uint32)
    y.flags.writeable = False
    assert failure("st.global.b32 [%rd0], 1;", [y]) is FailureKind.READ_ONLY


def test_widths_must_fit():
    with pytest.raises(UnsupportedPtx, match="32 bits, .b64 needs 64"):
        run_body("mov.b64 %x, 1;", [np.zeros(1)], declarations=PLACES)
    with pytest.raises(UnsupportedPtx, match="unknown modifier .frob of ld"):
        run_body("ld.frob.b32 %x, [%rd0];", [np.zeros(1)], declarations=PLACES)
