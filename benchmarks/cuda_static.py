"""What do the CUDA kernels cost before any GPU runs them: registers, spills, memory, instructions?

Compiles every kernel for every architecture, reads the machine code, and counts the instructions of
one warp in one round of the main loop, beside two plain float16 GEMMs of the same tile: our own
kernel without its decoding ("twin", `cuda_baseline/gemm_fp16.cu`), and one that Triton compiles.
Needs the CUDA wheels and triton of the extra `dev`, no GPU.
`python benchmarks/cuda_static.py` writes results/cuda_static.json and the section `cuda-static` of
RESULTS.md: {"compiler", "rows": [{"kernel", "name", "sm", "tile", "registers", "spills",
"stack_bytes", "shared_bytes", "threads", "blocks_per_sm", "instructions", "loop_instructions",
"loop", "twin": {..}, "triton": {..}}]}, both with "loop_instructions", "loop", "registers",
"spills", "ratio" (ours over it) or null where there is none. Nothing in it is a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibration_study.report import replace_section
from cuda_static_report import render
from sass import KernelCode, read_cubin

from vq4dit.json_file import write_json
from vq4dit.plugins.cuda.compile import SMS, compile_cubin, sources
from vq4dit.plugins.cuda.configuration import ONLY_SM, TILES, KernelConfiguration
from vq4dit.plugins.cuda.nvrtc import load_nvrtc
from vq4dit.plugins.cuda.sm_limits import sm_limits
from vq4dit.plugins.layout import CONFIGURATIONS, GroupOrder

#: Architectures on which a plain GEMM of Triton's uses the same tensor-core instructions as ours.
COMPARABLE = (80, 86, 87, 89)

_TWIN = "gemm_fp16.cu"
TWIN_NAME = "gemm_fp16"
_FOLDER = Path(__file__).parent
_ORDERS = {8: GroupOrder.MMA32, 4: GroupOrder.MMA16, 2: GroupOrder.CONTIGUOUS}

Row = dict[str, Any]


def main() -> None:
    """Compile, count, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sm", type=int, nargs="+", default=list(SMS), choices=SMS)
    parser.add_argument("--output", type=Path, default=_FOLDER / "results" / "cuda_static.json")
    args = parser.parse_args()
    rows = [static_row(configuration, sm) for sm in args.sm for configuration in configurations(sm)]
    document = {"compiler": load_nvrtc().version, "rows": rows}
    write_json(args.output, document)
    text = render(document)
    print(text)
    replace_section(_FOLDER / "RESULTS.md", "cuda-static", text)


def configurations(sm: int) -> Iterator[KernelConfiguration]:
    """Every tile of every kernel at 2 bits; on 8.0 also the other widths, orders and epilogues."""
    for kernel, tiles in TILES.items():
        if ONLY_SM.get(kernel) not in (None, sm):
            continue
        for tile in tiles:
            yield KernelConfiguration(kernel=kernel, tile=tile)
    if sm != 80:
        return
    first = KernelConfiguration(kernel="gemm")
    for epilogue in ("gelu_tanh", "silu", "gate_residual"):
        yield replace(first, epilogue=epilogue)
    yield replace(first, dtype="bfloat16")
    yield replace(first, group_order=GroupOrder.CONTIGUOUS)
    for bits in (1, 3, 4):
        codebook_size, length = CONFIGURATIONS[bits]
        yield replace(
            first, codebook_size=codebook_size, sub_vector_len=length, group_order=_ORDERS[length]
        )


def static_row(configuration: KernelConfiguration, sm: int, *, compare: bool = True) -> Row:
    """Resources and main loop of one kernel, and of its plain counterparts if it is a GEMM."""
    code = _one(read_cubin(compile_cubin(configuration, sm)))
    row: Row = {
        "kernel": configuration.kernel,
        "name": configuration.name,
        "sm": sm,
        "tile": f"{configuration.block_m}x{configuration.block_n}",
        "registers": code.registers,
        "spills": code.spills,
        "stack_bytes": code.stack_bytes,
        "shared_bytes": configuration.shared_bytes,
        "threads": configuration.threads,
        "blocks_per_sm": sm_limits(sm).resident_blocks(
            threads=configuration.threads,
            registers=code.registers,
            shared_bytes=configuration.shared_bytes,
        ),
        "instructions": code.instructions,
        "loop_instructions": code.loop_length,
        "loop": code.loop,
    }
    is_gemm = compare and configuration.kernel == "gemm"
    row["twin"] = _against(code, twin_code(configuration, sm)) if is_gemm else None
    has_triton = is_gemm and sm in COMPARABLE and _is_power_of_2(configuration.block_n)
    row["triton"] = _against(code, _triton_code(configuration, sm)) if has_triton else None
    return row


def twin_source(configuration: KernelConfiguration) -> tuple[str, dict[str, str], dict[str, str]]:
    """Main file, all sources and definitions of the plain GEMM with this configuration's tile."""
    macros = configuration.macros() | {"VQ_KERNEL_NAME": TWIN_NAME}
    texts = dict(sources()) | {_TWIN: (_FOLDER / "cuda_baseline" / _TWIN).read_text()}
    return _TWIN, texts, macros


def twin_code(configuration: KernelConfiguration, sm: int) -> KernelCode:
    """Machine code of the plain GEMM of this configuration's tile, warps, slices and stages."""
    main_file, texts, macros = twin_source(configuration)
    return _one(read_cubin(load_nvrtc().cubin(main_file, texts, sm, macros)))


def _triton_code(configuration: KernelConfiguration, sm: int) -> KernelCode:
    """Triton's GEMM of the tile and the warps of one slice."""
    from cuda_baseline.triton_gemm import triton_cubin

    return _one(
        read_cubin(
            triton_cubin(
                block_m=configuration.block_m,
                block_n=configuration.block_n,
                warps=configuration.warps // configuration.split_k,
                stages=configuration.stages,
                sm=sm,
            )
        )
    )


def _is_power_of_2(size: int) -> bool:
    """Triton's tiles are; so 96 outputs have no counterpart there."""
    return size & (size - 1) == 0


def _against(code: KernelCode, plain: KernelCode) -> Row:
    return {
        "registers": plain.registers,
        "spills": plain.spills,
        "loop_instructions": plain.loop_length,
        "loop": plain.loop,
        "ratio": round(code.loop_length / plain.loop_length, 3),
    }


def _one(kernels: list[KernelCode]) -> KernelCode:
    (kernel,) = kernels
    return kernel


if __name__ == "__main__":
    main()
