"""State spaces: generic addresses that go different ways, constants, and their names."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure, UnsupportedPtx, run_kernel
from support_ptx import HEADER, run_body

DECLARATIONS = """.reg .b32 %x, %y, %z; .reg .b64 %mine, %to, %at; .reg .pred %p;
.shared .align 8 .b8 tile[1024]; .local .align 8 .b8 depot[8];"""
#: %to: a generic address in shared memory for every third thread, in local memory for every third
#: other one, in %rd0 for the rest.
SCATTER = """mad.wide.u32 %to, %thread, 8, %rd0; mov.u64 %at, tile; cvta.shared.u64 %at, %at;
rem.u32 %x, %thread, 3; setp.eq.u32 %p, %x, 1; @%p mad.wide.u32 %to, %thread, 8, %at;
setp.eq.u32 %p, %x, 2; mov.u64 %at, depot; cvta.local.u64 %at, %at; @%p mov.u64 %to, %at;
"""


def test_generic_addresses_go_their_own_ways():
    where = np.zeros((64, 2), np.uint32)
    y = np.zeros((64, 2), np.uint32)
    body = f"""{SCATTER} add.u32 %y, %thread, 100; st.v2.b32 [%to], {{%thread, %y}};
    ld.v2.b32 {{%z, %x}}, [%to]; mad.wide.u32 %mine, %thread, 8, %rd1;
    st.global.v2.b32 [%mine], {{%z, %x}};"""
    run_body(body, [where, y], block=64, declarations=DECLARATIONS)
    threads = np.arange(64)
    np.testing.assert_array_equal(y, np.stack([threads, threads + 100], axis=1))
    expected = np.where((threads % 3 == 0)[:, None], y, 0)
    np.testing.assert_array_equal(where, expected)


def test_one_instruction_reads_and_writes_several_buffers():
    low, high, y = (np.arange(n, n + 32, dtype=np.uint32) for n in (100, 200, 0))
    unused, mine = np.zeros(5), np.zeros(32, np.uint32)
    body = """and.b32 %x, %thread, 1; setp.eq.u32 %p, %x, 1; mov.u64 %at, %rd0;
    @%p mov.u64 %at, %rd3; mad.wide.u32 %at, %thread, 4, %at; ld.global.b32 %y, [%at];
    mad.wide.u32 %mine, %thread, 4, %rd2; @%p mad.wide.u32 %mine, %thread, 4, %rd4;
    st.global.b32 [%mine], %y;"""
    run_body(body, [low, unused, y, high, mine], declarations=DECLARATIONS)
    odd = np.arange(32) % 2 == 1
    np.testing.assert_array_equal(y, np.where(odd, np.arange(32), low))
    np.testing.assert_array_equal(mine, np.where(odd, high, 0))


def test_shared_memory_of_the_own_block_has_two_names():
    y = np.zeros(32, np.uint32)
    body = """mad.wide.u32 %mine, %thread, 4, %rd0; mov.u32 %x, tile; mad.lo.u32 %x, %thread, 4, %x;
    st.shared::cta.b32 [%x], %thread; ld.shared.b32 %y, [%x]; st.global.b32 [%mine], %y;"""
    report = run_body(body, [y], declarations=DECLARATIONS)
    np.testing.assert_array_equal(y, np.arange(32))
    assert report.wavefronts().found == 2


@pytest.mark.parametrize("predicate", ["and.b32 %x, %thread, 1;", "shr.u32 %x, %thread, 4;"])
def test_loads_of_some_threads_change_those_alone(predicate):
    source, y = np.arange(32, dtype=np.uint32) + 50, np.zeros(32, np.uint32)
    body = f"""{predicate} setp.eq.u32 %p, %x, 1; mov.u32 %y, 7;
    mad.wide.u32 %at, %thread, 4, %rd0; @%p ld.global.b32 %y, [%at];
    mad.wide.u32 %mine, %thread, 4, %rd1; st.global.b32 [%mine], %y;"""
    run_body(body, [source, y], declarations=DECLARATIONS)
    chosen = np.arange(32) % 2 == 1 if "and" in predicate else np.arange(32) >= 16
    np.testing.assert_array_equal(y, np.where(chosen, source, 7))


MODULE = f"""{HEADER}.const .align 4 .b32 table[4] = {{1, 2, 3, 4}};
.visible .entry k(.param .u64 y) {{ .reg .b64 %y; .reg .b32 %x; ld.param.u64 %y, [y];
BODY ret; }}"""


def test_constants_are_not_written():
    y = np.zeros(1, np.uint32)
    body = "ld.const.b32 %x, [table+8]; st.global.b32 [%y], %x;"
    run_kernel(MODULE.replace("BODY", body), "k", 1, 1, [y])
    assert y[0] == 3
    for store in ("st.const.b32 [table], 5;", "st.global.b32 [table], 5;", "st.b32 [table+4], 5;"):
        with pytest.raises(KernelFailure) as caught:
            run_kernel(MODULE.replace("BODY", store), "k", 1, 1, [y])
        assert caught.value.kind is FailureKind.READ_ONLY


def test_global_variables_are_written_and_begin_anew_with_each_launch():
    y = np.zeros(1, np.uint32)
    text = MODULE.replace(".const", ".global").replace(
        "BODY",
        """ld.global.b32 %x, [table+4]; add.u32 %x, %x, 7; st.global.b32 [table+4], %x;
        ld.global.b32 %x, [table+4]; st.global.b32 [%y], %x;""",
    )
    for _ in range(2):
        run_kernel(text, "k", 1, 1, [y])
        assert y[0] == 9


def test_generic_addresses_have_64_bits():
    with pytest.raises(UnsupportedPtx, match="generic addresses have 64 bits"):
        run_body("cvta.shared.u32 %x, %x;", [np.zeros(1)], declarations=DECLARATIONS)
