"""Short PTX kernels around single instructions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ptx import Report, run_kernel
from ptx.scalar_types import TYPES

HEADER = ".version 8.5\n.target sm_80\n.address_size 64\n"

#: Integers where arithmetic goes wrong first, as bits of 64; cut them to the width under test.
EDGES = [0, 1, 2, 7, 31, 32, 33, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000]
EDGES += [0xFFFFFFFF, 0x12345678, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF]


def kernel_text(body: str, *, num_buffers: int, declarations: str = "") -> str:
    """A kernel `k` with `num_buffers` pointers in %rd0.., thread numbers in %tid and `body`.

    Args:
        declarations: more .reg or .shared lines.
    """
    parameters = ", ".join(f".param .u64 p{i}" for i in range(num_buffers))
    loads = "\n".join(f"ld.param.u64 %rd{i}, [p{i}];" for i in range(num_buffers))
    return (
        f"{HEADER}.visible .entry k({parameters})\n{{\n"
        f".reg .b64 %rd<{num_buffers + 8}>;\n.reg .b32 %thread;\n{declarations}\n"
        f"{loads}\nmov.u32 %thread, %tid.x;\n{body}\nret;\n}}\n"
    )


def evaluate(
    body: str,
    result: str,
    sources: Sequence[tuple[str, np.ndarray]],
    *,
    declarations: str = "",
    grid: int = 1,
) -> np.ndarray:
    """Run an instruction for many values: one thread each, sources in %a, %b, ..., result in %d.

    Args:
        body: the instructions.
        result: type of %d, which is stored.
        sources: type and values of %a, %b and so on, all of one length; pred registers %p and %q
            are there too.
    Returns:
        (n,) values of %d.
    """
    names = "abcef"[: len(sources)]
    count = len(sources[0][1])
    lines, registers = [], [".reg .pred %p, %q;", f".reg .{_bits(result)} %d;", ".reg .b64 %at;"]
    for number, (name, (kind, _)) in enumerate(zip(names, sources, strict=True)):
        size = TYPES[kind].num_bytes
        registers.append(f".reg .{_bits(kind)} %{name};")
        lines.append(f"mul.wide.u32 %at, %thread, {size};\nadd.s64 %at, %at, %rd{number + 1};")
        lines.append(f"ld.global.{_memory(kind)} %{name}, [%at];")
    size = TYPES[result].num_bytes
    lines.append(body)
    lines.append(f"mul.wide.u32 %at, %thread, {size};\nadd.s64 %at, %at, %rd0;")
    lines.append(f"st.global.{_memory(result)} [%at], %d;")
    text = kernel_text(
        "\n".join(lines),
        num_buffers=len(sources) + 1,
        declarations="\n".join(registers) + declarations,
    )
    output = np.zeros(count, TYPES[result].dtype)
    arrays = [np.ascontiguousarray(values, TYPES[kind].dtype) for kind, values in sources]
    assert count <= 1024, "one block"
    run_kernel(text, "k", grid, count, [output, *arrays])
    return output


def run_body(
    body: str,
    buffers: Sequence[np.ndarray],
    *,
    block: int = 32,
    grid: int = 1,
    declarations: str = "",
    shared_bytes: int = 0,
) -> Report:
    """Run a body on buffers in %rd0..."""
    text = kernel_text(body, num_buffers=len(buffers), declarations=declarations)
    return run_kernel(text, "k", grid, block, list(buffers), shared_bytes)


def pairs(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of edge values of an integer type."""
    values = edges(kind)
    return np.repeat(values, len(values)), np.tile(values, len(values))


def edges(kind: str) -> np.ndarray:
    """Edge values of an integer type."""
    dtype = TYPES[kind].dtype
    bits = sorted({edge & ((1 << 8 * dtype.itemsize) - 1) for edge in EDGES})
    return np.array(bits, f"u{dtype.itemsize}").view(dtype)


def _bits(kind: str) -> str:
    """Register type: at least 16 bits wide."""
    return f"b{max(16, TYPES[kind].num_bits)}"


def _memory(kind: str) -> str:
    return kind if TYPES[kind].num_bits == 8 else f"b{TYPES[kind].num_bits}"
