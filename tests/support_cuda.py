"""Run one of our CUDA kernels in the PTX emulator on random data, beside the NumPy reference."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ptx import Report, run_kernel
from tolerances import CUDA_BF16_RELATIVE, CUDA_FP16_RELATIVE, CUDA_WORST_OUTPUT, FP32_RELATIVE

from vq4dit.errors import BackendUnavailable
from vq4dit.plugins.cuda.compile import compile_ptx
from vq4dit.plugins.cuda.configuration import KernelConfiguration, Tile
from vq4dit.plugins.cuda.launch import launch_geometry
from vq4dit.plugins.cuda.nvrtc import load_nvrtc
from vq4dit.plugins.cuda.parameters import INPUT, OUTPUT, kernel_parameters
from vq4dit.plugins.layout import GroupOrder
from vq4dit.plugins.packing import pack_assignments
from vq4dit.plugins.reference import codebook_decode, codebook_gemm, codebook_gemm_residual

#: Layers that DiT quantizes, cut to a few rows of the weight where the kernels only repeat
#: themselves: rows of x, O, I, R, rows of one sample.
DIT_LAYERS = {
    "qkv": (130, 3 * 64, 1152, 3, 1),
    "proj": (66, 192, 1152, 1, 33),
    "fc1": (66, 136, 1152, 1, 1),
    "fc2": (66, 72, 4608, 1, 33),
    "adaln": (4, 6 * 32, 1152, 2, 1),
}

#: (codebook_size, sub_vector_len, group_order) of every quantization that has kernels: 1, 2, 3 and
#: 4 bits per weight as named, then the others.
QUANTIZATIONS = (
    (256, 8, GroupOrder.MMA32),
    (256, 4, GroupOrder.MMA16),
    (64, 2, GroupOrder.CONTIGUOUS),
    (256, 2, GroupOrder.CONTIGUOUS),
    (256, 4, GroupOrder.CONTIGUOUS),
    (256, 8, GroupOrder.CONTIGUOUS),
    (64, 4, GroupOrder.CONTIGUOUS),
    (16, 2, GroupOrder.CONTIGUOUS),
    (200, 4, GroupOrder.MMA16),
)

#: What an output in float32 is rounded to: the bits that its type keeps.
_ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}

#: Bits of a NaN in float16 and bfloat16: what an output holds that no thread has written.
_UNWRITTEN = 0x7FFF


@dataclass(frozen=True, kw_only=True)
class KernelRun:
    """Outputs in float32 of kernel and reference, and what the emulator counted."""

    found: np.ndarray
    needed: np.ndarray
    report: Report

    @property
    def relative_error(self) -> float:
        """Norm of the difference by the norm of the reference; NaN where an output is missing."""
        return float(np.linalg.norm(self.found - self.needed) / np.linalg.norm(self.needed))


def run_on_random_data(
    configuration: KernelConfiguration,
    *,
    m: int = 1,
    out_features: int,
    in_features: int,
    row_groups: int = 1,
    sequence: int = 1,
    sm: int | None = None,
    seed: int = 0,
    scale: float = 1.0,
) -> KernelRun:
    """Launch the kernel once, as the layer's sizes ask for it; m must be a multiple of sequence.

    x is normally distributed with standard deviation `scale`; sm is 80 unless the kernel is made
    for another one alone.

    Data of row 0 does not depend on m, so that runs of the same seed can be compared row by row.
    """
    rng = np.random.default_rng(seed)
    layout = configuration.layout(in_features)
    dtype, size = configuration.dtype, configuration.codebook_size
    indices = rng.integers(0, size, (out_features, layout.num_sub_vectors))
    arrays = {
        "codebook": to_words(
            0.05 * rng.standard_normal((row_groups, size, layout.sub_vector_len)), dtype
        ),
        "assignments": pack_assignments(indices, layout),
        "bias": to_words(rng.standard_normal(out_features), dtype),
        "x": to_words(scale * rng.standard_normal((m, in_features)), dtype),
        "gate": to_words(rng.standard_normal((m // sequence, out_features)), dtype),
        "residual": rng.standard_normal((m, out_features)).astype(np.float32),
    }
    needed = _reference(configuration, arrays, in_features, sequence)
    is_residual = configuration.epilogue == "gate_residual"
    output = np.full(needed.shape, np.nan if is_residual else _UNWRITTEN)
    output = output.astype(np.float32 if is_residual else np.uint16)
    scalars = {
        "m": m,
        "out_features": out_features,
        "in_features": in_features,
        "row_groups": row_groups,
        "sequence": sequence,
    }
    for array in arrays.values():
        array.setflags(write=False)
    kinds = {INPUT: arrays, OUTPUT: {"y": output, "weight": output}}
    launch = launch_geometry(
        configuration, m=m, n=out_features, k=in_features, row_groups=row_groups
    )
    report = run_kernel(
        _ptx(configuration, sm or configuration.only_sm or 80),
        configuration.name,
        launch.grid,
        launch.block,
        [kinds.get(p.kind, scalars)[p.name] for p in kernel_parameters(configuration)],
        launch.shared_bytes,
    )
    found = output if is_residual else from_words(output, dtype)
    return KernelRun(found=found, needed=needed, report=report)


def require_compiler() -> None:
    """Skip the calling module where kernels cannot be compiled."""
    try:
        load_nvrtc()
    except BackendUnavailable as error:
        pytest.skip(str(error), allow_module_level=True)


def packaged_tool(name: str) -> str:
    """A program of the package nvidia-cuda-nvcc; skips the test without it."""
    for folder in sys.path:
        found = sorted(Path(folder).glob(f"nvidia/cu*/bin/{name}"))
        if found:
            return str(found[-1])
    pytest.skip(f"{name} is not installed (pip install nvidia-cuda-nvcc)")


def configuration_of(kernel, tile, quantization=QUANTIZATIONS[1], **others) -> KernelConfiguration:
    """A configuration of one of QUANTIZATIONS."""
    codebook_size, sub_vector_len, group_order = quantization
    return KernelConfiguration(
        kernel=kernel,
        tile=tile,
        codebook_size=codebook_size,
        sub_vector_len=sub_vector_len,
        group_order=group_order,
        **others,
    )


def tile_name(tile) -> str:
    """For the names of parametrized tests."""
    shape = f"{tile.block_m}x{tile.block_n}-{tile.warp_m}x{tile.warp_n}"
    return f"{shape}-stages{tile.stages}-split{tile.split_k}"


def quantization_name(quantization) -> str:
    """For the names of parametrized tests."""
    codebook_size, sub_vector_len, group_order = quantization
    return f"k{codebook_size}d{sub_vector_len}-{group_order.name.lower()}"


def check_layer_of_dit(kernel: str, tile: Tile, layer: str) -> None:
    """A linear of a block, cut to size, with the epilogue that it has there."""
    m, out_features, in_features, row_groups, sequence = DIT_LAYERS[layer]
    epilogue = {"fc1": "gelu_tanh", "proj": "gate_residual", "fc2": "gate_residual"}.get(layer)
    check(
        configuration_of(kernel, tile, epilogue=epilogue or "none"),
        m=m,
        out_features=out_features,
        in_features=in_features,
        row_groups=row_groups,
        sequence=sequence,
    )


def check(configuration: KernelConfiguration, **sizes) -> KernelRun:
    """Run the kernel; its outputs must be right, its main loop without bank conflicts."""
    run = run_on_random_data(configuration, **sizes)
    if configuration.kernel == "decode":
        np.testing.assert_array_equal(run.found, run.needed)
        return run
    limit = {"float16": CUDA_FP16_RELATIVE, "bfloat16": CUDA_BF16_RELATIVE}[configuration.dtype]
    rounding = _ROUNDING[configuration.dtype]
    if configuration.epilogue == "gate_residual":
        limit, rounding = FP32_RELATIVE, 2.0**-24
    assert run.relative_error <= limit  # False for NaN too
    mean_square = np.sqrt(np.mean(run.needed**2))
    worst = np.abs(run.found - run.needed) / (rounding * np.abs(run.needed) + limit * mean_square)
    assert worst.max() <= CUDA_WORST_OUTPUT
    product = "wgmma" if configuration.kernel == "wgmma" else "mma"
    assert run.report.wavefronts(within=run.report.main_loop(product)).conflicts == 0
    return run


def to_words(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round to nearest "float16" or "bfloat16"; NumPy has no bfloat16, so its bits as uint16."""
    if dtype == "float16":
        return values.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_words(words: np.ndarray, dtype: str) -> np.ndarray:
    """Inverse of `to_words`, float32."""
    if dtype == "float16":
        return words.view(np.float16).astype(np.float32)
    return (words.astype(np.uint32) << 16).view(np.float32)


def _reference(
    configuration: KernelConfiguration,
    arrays: dict[str, np.ndarray],
    in_features: int,
    sequence: int,
) -> np.ndarray:
    """The oracle in float32 on the rounded inputs, (M, O) or (O, I)."""
    layout = configuration.layout(in_features)
    words = ("x", "codebook", "bias", "gate")
    x, codebook, bias, gate = (from_words(arrays[n], configuration.dtype) for n in words)
    assignments = arrays["assignments"]
    if configuration.kernel == "decode":
        return codebook_decode(codebook, assignments, layout=layout)
    if configuration.epilogue == "gate_residual":
        samples = len(x) // sequence
        return codebook_gemm_residual(
            x.reshape(samples, sequence, -1),
            codebook,
            assignments,
            bias,
            gate,
            arrays["residual"].reshape(samples, sequence, -1),
            layout=layout,
        ).reshape(len(x), -1)
    return codebook_gemm(
        x, codebook, assignments, bias, layout=layout, activation=configuration.epilogue
    )


@cache
def _ptx(configuration: KernelConfiguration, sm: int) -> str:
    """Compiled once in a test run, and once on a machine."""
    return compile_ptx(configuration, sm)
