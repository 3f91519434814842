"""Every instruction is known in the form that kernels have it, and in no form that nobody knows."""

from __future__ import annotations

import pytest
from ptx import UnsupportedPtx
from ptx.program import compile_program
from support_ptx import kernel_text

DECLARATIONS = """.reg .b32 %x, %y, %z, %a<4>; .reg .b16 %h; .reg .f32 %f; .reg .b64 %w, %v;
.reg .pred %p, %q; .shared .align 16 .b8 tile[64];"""

FRAGMENTS = "{%a0, %a1, %a2, %a3}, {%a0, %a1, %a2, %a3}, {%a0, %a1}, {%a0, %a1, %a2, %a3}"
TEXTS = (
    "add.u32 %x, %y, 1",
    "add.f32 %f, %f, %f",
    "add.cc.u32 %x, %y, 1",
    "addc.u32 %x, %y, 1",
    "sub.s32 %x, %y, 1",
    "sub.f32 %f, %f, %f",
    "subc.u32 %x, %y, 1",
    "mul.lo.u32 %x, %y, 3",
    "mul.f32 %f, %f, %f",
    "mad.wide.u32 %w, %x, 4, %v",
    "mad.lo.s32 %x, %y, %z, 1",
    "fma.rn.f32 %f, %f, %f, %f",
    "div.u32 %x, %y, %z",
    "div.approx.f32 %f, %f, %f",
    "rem.u32 %x, %y, 3",
    "min.s32 %x, %y, 3",
    "max.u32 %x, %y, 3",
    "min.f32 %f, %f, %f",
    "neg.s32 %x, %y",
    "neg.f32 %f, %f",
    "abs.s32 %x, %y",
    "abs.f32 %f, %f",
    "sad.u32 %x, %y, %z, 1",
    "dp4a.u32.u32 %x, %y, %z, %x",
    "and.b32 %x, %y, 1",
    "or.b32 %x, %y, 1",
    "xor.b32 %x, %y, 1",
    "not.b32 %x, %y",
    "cnot.b32 %x, %y",
    "lop3.b32 %x, %y, %z, %x, 0x96",
    "shl.b32 %x, %y, 2",
    "shr.u32 %x, %y, 2",
    "shf.l.wrap.b32 %x, %y, %z, 3",
    "bfe.u32 %x, %y, 3, 4",
    "bfi.b32 %x, %y, %z, 3, 4",
    "prmt.b32 %x, %y, %z, 0x5410",
    "popc.b32 %x, %y",
    "clz.b32 %x, %y",
    "bfind.u32 %x, %y",
    "brev.b32 %x, %y",
    "copysign.f32 %f, %f, %f",
    "rcp.approx.f32 %f, %f",
    "sqrt.rn.f32 %f, %f",
    "rsqrt.approx.f32 %f, %f",
    "ex2.approx.f32 %f, %f",
    "lg2.approx.f32 %f, %f",
    "sin.approx.f32 %f, %f",
    "cos.approx.f32 %f, %f",
    "tanh.approx.f32 %f, %f",
    "cvt.rn.f32.u32 %f, %x",
    "cvt.u64.u32 %w, %x",
    "set.lt.u32.u32 %x, %y, %z",
    "setp.lt.u32 %p, %x, 3",
    "selp.b32 %x, %y, %z, %p",
    "slct.u32.s32 %x, %y, %z, %x",
    "testp.finite.f32 %p, %f",
    "mov.b32 %x, %y",
    "ld.global.b32 %x, [%w]",
    "ldu.global.b32 %x, [%w]",
    "st.shared.b32 [tile], %x",
    "cvta.to.global.u64 %w, %v",
    "cp.async.cg.shared.global [tile], [%w], 16",
    "shfl.sync.idx.b32 %x, %y, 0, 31, -1",
    "vote.sync.ballot.b32 %x, %p, -1",
    "redux.sync.add.u32 %x, %y, -1",
    f"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {FRAGMENTS}",
    "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%x}, [tile]",
    "stmatrix.sync.aligned.m8n8.x1.shared.b16 [tile], {%x}",
    "atom.global.add.u32 %x, [%w], 1",
    "red.shared.add.u32 [tile], 1",
)


def compiled(text: str):
    return compile_program(kernel_text(f"{text};", num_buffers=1, declarations=DECLARATIONS), "k")


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.split()[0])
def test_an_unknown_modifier_stops_before_anything_runs(text):
    assert compiled(text).kernel.instructions[2].text == text
    opcode, rest = text.split(".", 1)
    with pytest.raises(UnsupportedPtx, match="frob") as caught:
        compiled(f"{opcode}.frob.{rest}")
    assert caught.value.text.startswith(f"{opcode}.frob.")
