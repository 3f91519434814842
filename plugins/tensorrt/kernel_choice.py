"""Which CUDA kernels can run a node, and the tactic number of each.

TensorRT times every tactic of a node when it builds an engine and keeps the fastest. Every kernel
here takes any number of rows, so that an engine of a dynamic batch may keep any of them.
"""

from __future__ import annotations

import hashlib
from itertools import product

from vq4dit.errors import OptionError

from ..cuda.compile import sources
from ..cuda.configuration import ONLY_SM, KernelConfiguration, supported_tiles
from ..layout import AssignmentLayout, Layout
from ..schema import CODEBOOK_DECODE, CODEBOOK_GEMM, CODEBOOK_GEMM_RESIDUAL, OpSchema

#: Kernels that compute an op.
_KERNELS = {
    CODEBOOK_GEMM.name: ("gemm", "gemv", "wgmma"),
    CODEBOOK_GEMM_RESIDUAL.name: ("gemm", "gemv", "wgmma"),
    CODEBOOK_DECODE.name: ("decode",),
}

_GATE_RESIDUAL = "gate_residual"


def kernels_for(
    op: OpSchema, layout: Layout, *, dtype: str, activation: str = "none", sm: int | None = None
) -> tuple[KernelConfiguration, ...]:
    """Every kernel that can run a node, of each kind the largest tiles first.

    Args:
        op: the node's op.
        layout: the node's layout.
        dtype: of x, codebook, bias and gate: "float16" or "bfloat16".
        activation: the node's; "none" where the op has none.
        sm: the GPU, as compute capability times ten; None leaves out kernels for one alone.
    Raises:
        OptionError: the assignments are not in the kernels' order.
        ShapeError: the kernels cannot read rows of this length.
    """
    if layout.assignment_layout != AssignmentLayout.MMA_LANES:
        raise OptionError(
            f"{op.name}: assignment layout is {layout.assignment_layout.name.lower()}, the GPU "
            "kernels read mma_lanes; export for --target tensorrt"
        )
    epilogue = _GATE_RESIDUAL if op is CODEBOOK_GEMM_RESIDUAL else activation
    found = tuple(
        KernelConfiguration(
            kernel=kernel,
            dtype=dtype,
            codebook_size=layout.codebook_size,
            sub_vector_len=layout.sub_vector_len,
            group_order=layout.group_order,
            epilogue=epilogue,
            tile=tile,
        )
        for kernel in _KERNELS[op.name]
        if ONLY_SM.get(kernel) in (None, sm)
        for tile in supported_tiles(kernel)
    )
    for configuration in found:
        configuration.layout(layout.in_features)
    return found


def tactic_number(configuration: KernelConfiguration) -> int:
    """1 .. 2^31 - 1, from the kernel's name alone: kept when kernels are added or removed."""
    digest = hashlib.sha256(configuration.name.encode()).digest()
    return 1 + int.from_bytes(digest[:4], "big") % (2**31 - 2)


def kernel_of_tactic(
    configurations: tuple[KernelConfiguration, ...], tactic: int
) -> KernelConfiguration:
    """The kernel with this number; OptionError where none has it."""
    for configuration in configurations:
        if tactic_number(configuration) == tactic:
            return configuration
    known = ", ".join(str(tactic_number(c)) for c in configurations)
    raise OptionError(f"tactic {tactic} is unknown; known are {known}")


def kernels_digest() -> str:
    """Changes with any CUDA source: belongs into the key of a timing cache.

    TensorRT asks ahead-of-time plugins for no such identification (`get_timing_cache_id` of its
    template is empty), so that a timing cache would hand times of old kernels to new ones.
    """
    digest = hashlib.sha256()
    for name, text in sorted(sources().items()):
        digest.update(f"{name}:{len(text)}:{text}".encode())
    return digest.hexdigest()[:16]


def common_kernels(
    layouts: tuple[Layout, ...], dtypes: tuple[str, ...], *, sm: int | None = None
) -> tuple[tuple[OpSchema, str, KernelConfiguration], ...]:
    """(op, activation, kernel) of every op and activation for these layouts and dtypes, once.

    sm: as in `kernels_for`.
    """
    nodes = [(CODEBOOK_GEMM, a) for a in ("none", "gelu_tanh", "silu")]
    nodes += [(CODEBOOK_GEMM_RESIDUAL, "none"), (CODEBOOK_DECODE, "none")]
    return tuple(
        (op, activation, kernel)
        for layout, dtype, (op, activation) in product(layouts, dtypes, nodes)
        for kernel in kernels_for(op, layout, dtype=dtype, activation=activation, sm=sm)
    )
