"""PTX text as compilers and people write it."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import UnsupportedPtx, entry_names, run_kernel
from ptx.parser import parse_kernel
from ptx.syntax import Immediate, Register, Vector
from support_ptx import HEADER


def kernel(body: str, parameters: str = ".param .u64 y") -> str:
    return f"{HEADER}.visible .entry k({parameters}) {{\n{body}\nret;\n}}\n"


def test_scopes_hide_and_end():
    """Inline assembly declares the same names again, with other types, and labels too."""
    text = kernel(
        """.reg .b32 a, b; .reg .b64 p; .reg .pred q;
        ld.param.u64 p, [y];
        mov.u32 a, 1;
        { .reg .b64 a; mov.u64 a, 5; cvt.u32.u64 b, a; }
        { .reg .b16 a; mov.b16 a, 7; { .reg .b64 a; mov.u64 a, 9; } mov.b32 b, {a, a}; }
        { mov.u32 a, 3; bra L; mov.u32 a, 4; L: add.u32 a, a, 1; }
        { bra L; mov.u32 a, 9; L: add.u32 a, a, 1; }
        bra L; mov.u32 a, 0; L:
        { { bra L; mov.u32 a, 9; } mov.u32 a, 8; L: }
        st.global.v2.b32 [p], {a, b};"""
    )
    y = np.zeros(2, np.uint32)
    run_kernel(text, "k", 1, 1, [y])
    np.testing.assert_array_equal(y, [5, 0x00070007])


def test_what_only_informs_is_passed_over():
    text = f"""// .reg .b32 nothing;
{HEADER}
.file 1 "a;b.cu"
.extern .func vprintf(.param .b64 a);
.visible .entry other() {{ .reg .b32 x; mov.u32 x, 1; trap; }}
/* two
lines {{ */
.weak .entry k(
    .param .u64 .ptr .global .align 16 y, // a pointer
    .param .align 4 .b8 s[8]
)
.reqntid 32, 1, 1
.minnctapersm 2
{{
    .reg .b32 %r<3>;
    .reg .b64 %rd<2>;
    .loc 1 23 0
    .pragma "nounroll";
    ld.param.u64 %rd1, [y];
    .loc 1 24 5, function_name $info, inlined_at 1 2 3
    mov.u32 %r1, %laneid; mov.u32 %r2, {{ 0 }};
    st.global.u32 [%rd1], %r1;
    ret;
}}""".replace("mov.u32 %r2, { 0 };", "")
    assert entry_names(text) == ["other", "k"]
    parsed = parse_kernel(text, "k")
    assert [i.opcode for i in parsed.instructions] == ["ld", "mov", "st", "ret"]
    assert parsed.max_threads == 32
    assert [(p.name, p.offset, p.size) for p in parsed.parameters] == [("y", 0, 8), ("s", 8, 8)]
    store = parsed.instructions[2]
    assert text.splitlines()[store.line - 1].strip() == "st.global.u32 [%rd1], %r1;"


def test_instructions_of_several_lines_and_operands():
    text = kernel(
        """.reg .b32 d<4>; .reg .f32 f; .reg .pred p, q;
        mov.u32 d0, 0;
        mov.b32
            {d1, _},
            d0;"""
    )
    move = parse_kernel(text, "k").instructions[1]
    assert isinstance(move.operands[0], Vector) and isinstance(move.operands[1], Register)
    first = parse_kernel(text, "k").instructions[0]
    assert first.operands[1] == Immediate("integer", 0)
    assert move.line == first.line + 1


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("bra nowhere;", "unknown label 'nowhere'"),
        ("add.u32 %a, %b, 1;", "unknown operand '%a'"),
        ("@%p ret;", "unknown predicate %p"),
        (".surf x;", "unknown directive .surf"),
        (".reg .b24 x;", "unknown register declaration"),
        (".reg .b32 x; ld.global.b32 x, [x*4];", "unknown address"),
        (".reg .b32 x; call (x), f, (x);", "unknown"),
        (".reg .b32 x; add.u32 x, 1, 2, 3;", "3 sources, needed 2"),
        (".reg .b32 x; mov.b32 x, 1, 2;", "a form that"),
        (".reg .b32 x; shfl.sync.b32 x, x, 1, 31, -1;", "a form that"),
        (".reg .b32 x; add.u32 x, 1, {2, 3};", "no value of type u32"),
        (".reg .b32 x; ld.shared.b32 x, [%tid.x];", "unknown address"),
        (".reg .b32 x; mov.u32 x, %total_smem_size;", "unknown operand '%total_smem_size'"),
        (".reg .b32 x; mov.u32 x, !5;", "negates no register"),
    ],
)
def test_what_is_unknown_is_named(body, problem):
    with pytest.raises(UnsupportedPtx, match=problem):
        run_kernel(kernel(body), "k", 1, 1, [0])
