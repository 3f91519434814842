"""wgmma: matrices in registers and in swizzled shared memory, and what it may not be used for."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tolerances
from ptx import FailureKind, KernelFailure, UnsupportedPtx
from ptx.float_formats import bfloat16_from_float32, float32_from_bfloat16
from support_ptx import run_body

ROWS, COLUMNS, DEPTH = 64, 24, 16
NUM_SUMS = COLUMNS // 2
STRIDE, LEADING = 1024, 512  # bytes, of the matrices here
NONE, BYTES_128, BYTES_64, BYTES_32 = range(4)
THREADS = np.arange(128)
#: Swizzle -> products of 16 columns in one row of its pattern.
SLABS = {NONE: 1, BYTES_128: 4, BYTES_64: 2, BYTES_32: 1}


def place(swizzle: int, row: int, chunk: int) -> int:
    """Byte of 8 columns of a row, from the ISA's pictures of the swizzling modes."""
    group, r = row // 8 * STRIDE, row % 8
    if swizzle == BYTES_128:
        return group + 128 * r + 16 * (chunk ^ r)
    if swizzle == BYTES_64:
        return group + 64 * r + 16 * (chunk ^ r // 2)
    if swizzle == BYTES_32:
        return group + 32 * r + 16 * (chunk ^ r // 4)
    return group + LEADING * chunk + 16 * r


def image(matrix: np.ndarray, swizzle: int, slab: int) -> np.ndarray:
    """Shared memory (bytes) with (rows, 16) 16-bit values in columns 16 slab..., else NaN."""
    memory = np.full(-(-len(matrix) // 8) * STRIDE, 0xFF, np.uint8)
    for row, values in enumerate(matrix):
        for half in range(2):
            start = place(swizzle, row, 2 * slab + half)
            memory[start : start + 16] = values[8 * half : 8 * half + 8].view(np.uint8)
    return memory


def descriptor(swizzle: int, slab: int, start: int = 0) -> int:
    address = start + 32 * slab
    return address >> 4 | (LEADING >> 4) << 16 | (STRIDE >> 4) << 32 | swizzle << 62


def row_and_columns(thread: int, register: int) -> tuple[int, int]:
    """Row and first column of A's register in a thread of the warpgroup."""
    warp, lane = thread // 32, thread % 32
    return 16 * warp + lane // 4 + 8 * (register % 2), lane % 4 * 2 + 8 * (register // 2)


def place_in_sums(thread: int, register: int) -> tuple[int, int]:
    warp, lane = thread // 32, thread % 32
    row = 16 * warp + lane // 4 + 8 * (register // 2 % 2)
    return row, 8 * (register // 4) + lane % 4 * 2 + register % 2


def bits_of(values: np.ndarray, kind: str) -> np.ndarray:
    values = values.astype(np.float32)
    return bfloat16_from_float32(values) if kind == "bf16" else values.astype(np.float16)


def value_of(bits: np.ndarray, kind: str) -> np.ndarray:
    return float32_from_bfloat16(bits) if kind == "bf16" else bits.astype(np.float32)


SUMS = [f"d{i}" for i in range(NUM_SUMS)]
DECLARATIONS = f""".reg .f32 d<{NUM_SUMS}>; .reg .b32 a<4>; .reg .b32 %w, %x, %y, %n;
.reg .b64 %at, %da, %db; .reg .pred %add, %p; .extern .shared .align 1024 .b8 tiles[];"""

#: %rd0: shared memory's contents, %rd1: A's registers, %rd2: sums, %rd3: results, of each thread.
BODY = """
mul.wide.u32 %at, %thread, 16; add.s64 %at, %at, %rd1;
ld.global.v4.b32 {{a0, a1, a2, a3}}, [%at];
mul.wide.u32 %at, %thread, {sum_bytes}; add.s64 %at, %at, %rd2;
{load_sums}
mov.u32 %n, {num_words}; mov.u32 %w, %thread;
LOOP: mul.wide.u32 %at, %w, 4; add.s64 %at, %at, %rd0; ld.global.b32 %x, [%at];
mov.u32 %y, tiles; mad.lo.u32 %y, %w, 4, %y; st.shared.b32 [%y], %x;
add.u32 %w, %w, 128; setp.lt.u32 %p, %w, %n; @%p bra LOOP;
fence.proxy.async.shared::cta;
bar.sync 0;
mov.b64 %da, {a_descriptor}; mov.b64 %db, {b_descriptor}; setp.ne.b32 %add, {add}, 0;
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind}
    {{{sums}}}, {a}, %db, %add, 1, 1, {t};
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned 0;
mul.wide.u32 %at, %thread, {sum_bytes}; add.s64 %at, %at, %rd3;
{store_sums}
"""


class Product:
    """A random product of the warpgroup, its body and its buffers."""

    def __init__(self, kind="f16", swizzle=BYTES_128, slab=0, *, a_is_shared=False, add=True):
        rng = np.random.default_rng(swizzle + 10 * slab)
        self.a, self.b = (bits_of(rng.standard_normal((n, DEPTH)), kind) for n in (ROWS, COLUMNS))
        self.c = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
        memory = image(self.b, swizzle, slab)
        b_bytes = len(memory)
        if a_is_shared:
            memory = np.concatenate([memory, image(self.a, swizzle, slab)])
        self.shared_bytes = len(memory)
        self.expected = value_of(self.a, kind).astype(np.float64) @ value_of(self.b, kind).T
        self.expected += self.c * add
        self.found = np.full((128, NUM_SUMS), np.nan, np.float32)
        fragments = [[row_and_columns(t, i) for i in range(4)] for t in THREADS]
        registers = [[self.a[row, k : k + 2] for row, k in places] for places in fragments]
        sums = [[self.c[place_in_sums(t, i)] for i in range(NUM_SUMS)] for t in THREADS]
        self.buffers = [memory, np.array(registers), np.array(sums, np.float32), self.found]
        self.body = BODY.format(
            sum_bytes=4 * NUM_SUMS,
            load_sums="".join(f"ld.global.f32 {d}, [%at+{4 * i}];" for i, d in enumerate(SUMS)),
            store_sums="".join(f"st.global.f32 [%at+{4 * i}], {d};" for i, d in enumerate(SUMS)),
            num_words=len(memory) // 4,
            a_descriptor=descriptor(swizzle, slab, b_bytes),
            b_descriptor=descriptor(swizzle, slab),
            add=int(add),
            columns=COLUMNS,
            kind=kind,
            sums=", ".join(SUMS),
            a="%da" if a_is_shared else "{a0, a1, a2, a3}",
            t="0, 0" if a_is_shared else "0",
        )

    def run(self, body: str = "", *, block: int = 128):
        return run_body(
            body or self.body,
            self.buffers,
            block=block,
            declarations=DECLARATIONS,
            shared_bytes=self.shared_bytes,
        )

    def check(self) -> None:
        report = self.run()
        assert report.count("wgmma.mma_async") == 4
        found = np.empty((ROWS, COLUMNS), np.float32)
        for thread in THREADS:
            for register in range(NUM_SUMS):
                found[place_in_sums(thread, register)] = self.found[thread, register]
        np.testing.assert_allclose(
            found, self.expected, rtol=tolerances.FP32_RELATIVE, atol=tolerances.FP32_RELATIVE
        )


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize(("swizzle", "slab"), [(s, i) for s, n in SLABS.items() for i in range(n)])
def test_a_in_registers(kind, swizzle, slab):
    Product(kind, swizzle, slab).check()


@pytest.mark.parametrize("swizzle", SLABS)
def test_a_in_shared_memory(swizzle):
    Product(swizzle=swizzle, slab=SLABS[swizzle] - 1, a_is_shared=True).check()


def test_sums_are_not_added_where_the_predicate_says_so():
    Product(add=False).check()


FENCE = "fence.proxy.async.shared::cta;\n"
PRODUCT_FENCE = "wgmma.fence.sync.aligned;\n"
WAIT = "wgmma.wait_group.sync.aligned 0;\n"
COMMIT = "wgmma.commit_group.sync.aligned;\n"
BARRIER = "bar.sync 0;\n"
WRITE = "mov.u32 %y, tiles; setp.eq.u32 %p, %thread, 0; @%p st.shared.b32 [%y], %x;\n"

#: name -> (the check that finds it, text, what replaces it)
BUGS = {
    "no fence of the async proxy": (FailureKind.PROXY_NOT_FENCED, FENCE, ""),
    "another fence": (FailureKind.PROXY_NOT_FENCED, FENCE, "fence.acq_rel.cta;\n"),
    "fence before the writes": (
        FailureKind.PROXY_NOT_FENCED,
        "LOOP: ",
        f"{FENCE} LOOP: ",
    ),
    "fence for one warp": (
        FailureKind.PROXY_NOT_FENCED,
        FENCE,
        "setp.lt.u32 %p, %thread, 32; @%p fence.proxy.async;\n",
    ),
    "no barrier": (FailureKind.RACE, BARRIER, ""),
    "no wgmma.fence": (FailureKind.REGISTER_NOT_FENCED, PRODUCT_FENCE, ""),
    "sums touched after wgmma.fence": (
        FailureKind.REGISTER_NOT_FENCED,
        PRODUCT_FENCE,
        f"{PRODUCT_FENCE} mov.f32 d3, 0f00000000;\n",
    ),
    "A touched after wgmma.fence": (
        FailureKind.REGISTER_NOT_FENCED,
        PRODUCT_FENCE,
        f"{PRODUCT_FENCE} mov.b32 a3, 0;\n",
    ),
    "no wait": (FailureKind.REGISTER_IN_FLIGHT, WAIT, ""),
    "waits for one group too few": (FailureKind.REGISTER_IN_FLIGHT, WAIT, WAIT.replace("0", "1")),
    "no commit": (FailureKind.REGISTER_IN_FLIGHT, COMMIT, ""),
    "A overwritten": (FailureKind.REGISTER_IN_FLIGHT, WAIT, f"mov.b32 a1, 0;\n{WAIT}"),
    "shared memory overwritten": (FailureKind.RACE, WAIT, f"{BARRIER}{WRITE}{WAIT}"),
    "overwritten without a barrier": (FailureKind.RACE, WAIT, f"{WAIT}{WRITE}"),
    "descriptors differ": (
        FailureKind.DIVERGENT_WARP,
        PRODUCT_FENCE,
        f"{PRODUCT_FENCE} cvt.u64.u32 %da, %thread; add.s64 %db, %db, %da;\n",
    ),
    "matrix past the end": (
        FailureKind.OUT_OF_BOUNDS,
        PRODUCT_FENCE,
        f"{PRODUCT_FENCE} add.s64 %db, %db, 64;\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BUGS)
def test_every_bug_is_found(name):
    kind, text, replacement = BUGS[name]
    product = Product()
    assert product.body.count(text) == 1
    body = product.body.replace(text, replacement)
    if name == "fence before the writes":
        body = re.sub(rf"(bra LOOP;\n){re.escape(FENCE)}", r"\1", body)
    with pytest.raises(KernelFailure) as caught:
        product.run(body)
    assert caught.value.kind is kind, caught.value


@pytest.mark.parametrize(
    "change",
    [
        (BARRIER + "mov.b64", BARRIER + FENCE + "mov.b64"),  # by those that read, as Triton does
        (WAIT, WAIT + BARRIER + WRITE),  # what the products have read may be written again
        (WAIT, "mov.b32 %x, 0;\n" + WAIT),  # other registers
    ],
)
def test_what_is_allowed(change):
    product = Product()
    body = product.body.replace(*change)
    if change[0] != WAIT:
        body = body.replace(FENCE, "", 1)
    assert body != product.body
    product.run(body)
    assert not np.isnan(product.found).any()


@pytest.mark.parametrize(
    ("text", "replacement", "message"),
    [
        (", 1, 1, 0;", ", 1, -1, 0;", "negated or transposed"),
        (", 1, 1, 0;", ", 1, 1, 1;", "negated or transposed"),
        ("k16.f32.f16.f16", "k16.f16.f16.f16", "unknown shape or types"),
        ("m64n24", "m64n32", "12 registers of 32 columns"),
        ("{a0, a1, a2, a3}, %db", "{a0, a1}, %db", "2 registers of A"),
        ("wgmma.commit_group.sync", "wgmma.commit.sync", "unknown instruction wgmma.commit"),
        (FENCE, "fence.proxy.tensormap;\n", "unknown fence"),
        (PRODUCT_FENCE, PRODUCT_FENCE + "xor.b64 %db, %db, 0x2000000000000;\n", "base offset"),
    ],
)
def test_other_forms_are_refused(text, replacement, message):
    product = Product()
    assert text in product.body
    with pytest.raises(UnsupportedPtx, match=message):
        product.run(product.body.replace(text, replacement))


def test_a_warpgroup_is_four_warps():
    product = Product()
    with pytest.raises(KernelFailure, match="warpgroup is not whole") as caught:
        product.run(product.body, block=96)
    assert caught.value.kind is FailureKind.DIVERGENT_WARP
