"""Compile the CUDA kernels into source files of the C++ plugin library (cpp/).

    python -m vq4dit.plugins.tensorrt.embed -o FOLDER --sm 87 [--bits 2 ..] [--dtypes float16 ..]

FOLDER gets one image per kernel and GPU, an assembler file that takes them in, and the kernel table
as C++. CMake runs this; a folder made on another machine serves as well (VQ4DIT_KERNELS).
"""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from vq4dit.atomic_file import atomic_path
from vq4dit.errors import OptionError

from ..cuda.compile import SMS, compile_cubin, compile_ptx
from ..cuda.configuration import DTYPES, KernelConfiguration
from ..cuda.launch import rows_per_block
from ..cuda.parameters import SCALAR, kernel_parameters
from ..layout import (
    CONFIGURATIONS,
    ORDER_PERIOD,
    AssignmentLayout,
    GroupOrder,
    Layout,
    default_group_order,
)
from ..reference import ACTIVATIONS
from ..schema import OPS, OpSchema
from .kernel_choice import common_kernels, kernels_digest, tactic_number

_log = logging.getLogger(__name__)

#: Sources of the library; a CMake project of its own.
CPP_FOLDER = Path(__file__).parent / "cpp"

#: What the files are called that CMake compiles.
TABLE_NAME, IMAGES_NAME = "kernels.cc", "images.S"

_ELEMENTS = {"float16": "kHalf", "bfloat16": "kBfloat16"}
_OP_KINDS = dict(zip(OPS, ("kGemm", "kGemmResidual", "kDecode"), strict=True))
_ACTIVATIONS = dict(zip(ACTIVATIONS, ("kNone", "kGeluTanh", "kSilu"), strict=True))
_SCALARS = {
    "m": "kM",
    "out_features": "kOutFeatures",
    "in_features": "kInFeatures",
    "row_groups": "kRowGroups",
    "sequence": "kSequence",
}

Node = tuple[OpSchema, str, KernelConfiguration]


def embed_kernels(
    folder: Path,
    *,
    sms: Sequence[int],
    bits: Sequence[int],
    dtypes: Sequence[str],
    all_orders: bool = False,
) -> int:
    """Write the generated sources of the library.

    Args:
        folder: where to; made if it is not there.
        sms: GPUs to carry machine code for; where there are several, also PTX of the oldest, which
            every GPU between and after them takes.
        bits: named configurations, as in CONFIGURATIONS, each in its default column order.
        dtypes: of x: "float16", "bfloat16".
        all_orders: the contiguous column order too, which foreign artifacts may have.
    Returns:
        The number of kernels.
    Raises:
        OptionError: an unknown value.   BackendUnavailable: there is no CUDA compiler.
    """
    _check("sm", sms, SMS)
    _check("bits", bits, tuple(CONFIGURATIONS))
    _check("dtype", dtypes, DTYPES)
    folder.mkdir(parents=True, exist_ok=True)
    layouts = _layouts(bits, all_orders=all_orders)
    only_sm = sms[0] if len(set(sms)) == 1 else None  # every kernel must run on all of them
    nodes = common_kernels(layouts, tuple(dict.fromkeys(dtypes)), sm=only_sm)
    images: list[str] = []
    assembly = ["// Made by vq4dit.plugins.tensorrt.embed.", "    .section .rodata"]
    for number, (_, _, kernel) in enumerate(nodes):
        _log.info("%d of %d: %s", number + 1, len(nodes), kernel.name)
        rows = []
        for sm, is_ptx, content in _images(kernel, sorted(set(sms))):
            symbol = f"vq4dit_{kernel.name}_{'ptx' if is_ptx else 'sm'}{sm}"
            path = folder / f"{symbol}.bin"
            _write(path, content)
            assembly += [f"    .balign 64\n    .global {symbol}\n    .hidden {symbol}"]
            assembly += [f'{symbol}:\n    .incbin "{path.name}"']
            rows.append((sm, is_ptx, symbol, len(content)))
        images.append(_image_rows(number, rows))
    assembly.append('    .section .note.GNU-stack, "", %progbits')
    _write(folder / IMAGES_NAME, ("\n".join(assembly) + "\n").encode())
    _write(folder / TABLE_NAME, _table(nodes, images).encode())
    return len(nodes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line, as CMake does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--sm", type=int, nargs="+", required=True, choices=SMS)
    parser.add_argument("--bits", type=int, nargs="+", default=[2], choices=sorted(CONFIGURATIONS))
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--all-orders", action="store_true", help="contiguous column order too")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    embed_kernels(
        args.output, sms=args.sm, bits=args.bits, dtypes=args.dtypes, all_orders=args.all_orders
    )


def _layouts(bits: Sequence[int], *, all_orders: bool) -> tuple[Layout, ...]:
    """The layouts of the named configurations, in the kernels' byte order."""
    layouts = []
    for name in dict.fromkeys(bits):
        size, length = CONFIGURATIONS[name]
        columns = ORDER_PERIOD[GroupOrder.MMA32]
        orders = {default_group_order(columns, length)}
        orders |= {GroupOrder.CONTIGUOUS} if all_orders else set()
        layouts += [
            Layout(
                in_features=columns,
                codebook_size=size,
                sub_vector_len=length,
                group_order=order,
                assignment_layout=AssignmentLayout.MMA_LANES,
            )
            for order in sorted(orders, reverse=True)
        ]
    return tuple(layouts)


def _images(kernel: KernelConfiguration, sms: Sequence[int]) -> list[tuple[int, bool, bytes]]:
    """(sm, is PTX, content): machine code for every GPU; for several also PTX, ended with NUL."""
    found = [(sm, False, compile_cubin(kernel, sm)) for sm in sms]
    if len(sms) == 1:
        return found
    return [*found, (sms[0], True, compile_ptx(kernel, sms[0]).encode() + b"\0")]


def _image_rows(number: int, rows: list[tuple[int, bool, str, int]]) -> str:
    """The images of one kernel as a C++ array."""
    declared = "".join(f'extern "C" const unsigned char {symbol}[];\n' for _, _, symbol, _ in rows)
    values = ",\n    ".join(
        f"{{{sm}, {str(is_ptx).lower()}, {symbol}, {size}}}" for sm, is_ptx, symbol, size in rows
    )
    return f"{declared}static const Image kImages{number}[] = {{\n    {values}}};\n"


def _table(nodes: Sequence[Node], images: Sequence[str]) -> str:
    """The kernel table as C++."""
    kernels = ",\n".join(_kernel_row(number, node) for number, node in enumerate(nodes))
    digest = hashlib.sha256(kernels.encode()).hexdigest()[:16]
    return (
        "// Made by vq4dit.plugins.tensorrt.embed.\n"
        '#include "kernel_table.h"\n\nnamespace vq4dit {\n\n'
        + "".join(images)
        + f"\nconst Kernel kKernels[] = {{\n{kernels}}};\n"
        + f"const size_t kNumKernels = {len(nodes)};\n"
        + f'const char* const kKernelsId = "{kernels_digest()}{digest}";\n\n'
        + "}  // namespace vq4dit\n"
    )


def _kernel_row(number: int, node: Node) -> str:
    """One initializer of `Kernel`, in the order of kernel_table.h."""
    op, activation, kernel = node
    scalars = [p.name for p in kernel_parameters(kernel) if p.kind == SCALAR]
    values: list[str | int] = [
        f'"{kernel.name}"',
        tactic_number(kernel),
        f"OpKind::{_OP_KINDS[op.name]}",
        f"Element::{_ELEMENTS[kernel.dtype]}",
        kernel.codebook_size,
        kernel.sub_vector_len,
        int(kernel.group_order),
        int(AssignmentLayout.MMA_LANES),
        f"Activation::{_ACTIVATIONS[activation]}",
        rows_per_block(kernel),
        kernel.stages,
        kernel.block_n,
        kernel.threads,
        kernel.shared_bytes,
        len(scalars),
        "{" + ", ".join(f"Scalar::{_SCALARS[name]}" for name in scalars) + "}",
        f"kImages{number}",
        f"std::size(kImages{number})",
    ]
    return "    {" + ", ".join(map(str, values)) + "}"


def _check(name: str, values: Sequence[object], known: Sequence[object]) -> None:
    """Raise OptionError for an unknown value, or for none at all."""
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        found = unknown[0] if unknown else "missing"
        raise OptionError(f"{name} is {found}, needed some of {', '.join(map(str, known))}")


def _write(path: Path, content: bytes) -> None:
    """Write whole, and only where it changes anything: CMake then compiles nothing again."""
    if path.is_file() and path.read_bytes() == content:
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


if __name__ == "__main__":
    main()
