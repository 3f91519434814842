"""Launches: arguments, blocks in groups, counters, and what stops before anything runs."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import LaunchError, UnsupportedPtx, entry_names, run_kernel

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"

#: y[i] += scale for i < count
ADD = (
    HEADER
    + """
.visible .entry add(
    .param .u64 .ptr .global .align 4 add_param_0,
    .param .u32 add_param_1,
    .param .f32 add_param_2
)
.maxntid 128, 1, 1
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [add_param_0];
    ld.param.u32 %r1, [add_param_1];
    ld.param.f32 %f1, [add_param_2];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra $L__BB0_2;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.f32 %f2, [%rd4];
    add.f32 %f3, %f2, %f1;
    st.global.f32 [%rd4], %f3;
$L__BB0_2:
    ret;
}
"""
)


@pytest.mark.parametrize("block", [32, 64, 100])
@pytest.mark.parametrize("count", [1, 31, 1000, 5000])
def test_every_block_and_thread_runs_once(block, count):
    y = np.arange(count, dtype=np.float32)
    run_kernel(ADD, "add", -(-count // block), block, [y, count, 2.5])
    np.testing.assert_array_equal(y, np.arange(count) + np.float32(2.5))


def test_counts_are_by_warp():
    report = run_kernel(ADD, "add", 2, 64, [np.zeros(40, np.float32), 40, 1.0])
    assert report.count("mov.u32") == 2 * 2 * 3
    assert report.count("ld.global") == 2, "only the first two warps have work"
    assert report.loops == ()


def test_arguments_must_fit():
    y = np.zeros(4, np.float32)
    with pytest.raises(LaunchError, match="2 arguments, needed 3"):
        run_kernel(ADD, "add", 1, 32, [y, 4])
    with pytest.raises(LaunchError, match="at most 128"):
        run_kernel(ADD, "add", 1, 256, [y, 4, 1.0])
    with pytest.raises(LaunchError, match="needs a parameter of 8 bytes"):
        run_kernel(ADD, "add", 1, 32, [y, y, 1.0])


def test_unknown_ptx_is_named_with_its_line():
    text = ADD.replace("add.f32 %f3, %f2, %f1;", "frobnicate.f32 %f3, %f2, %f1;")
    line = next(n for n, t in enumerate(text.splitlines(), 1) if "frobnicate" in t)
    with pytest.raises(UnsupportedPtx, match=f"frobnicate.*line {line}"):
        run_kernel(text, "add", 1, 32, [np.zeros(4, np.float32), 4, 1.0])
    with pytest.raises(UnsupportedPtx, match="no kernel 'sub'; found: add"):
        run_kernel(ADD, "sub", 1, 32, [])
    assert entry_names(ADD) == ["add"]
