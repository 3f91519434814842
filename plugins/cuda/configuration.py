"""What one CUDA kernel is compiled for: element type, quantization, epilogue and tile.

A configuration becomes preprocessor definitions for the sources beside this file. Sizes of a layer
(M, O, I, R) are arguments of the launch, not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vq4dit.errors import OptionError, ShapeError

from ..layout import ORDER_PERIOD, STEP_COLUMNS, AssignmentLayout, GroupOrder, Layout
from .sm_limits import LARGEST_SHARED_BYTES

KERNELS = ("gemm", "gemv", "decode", "wgmma")
DTYPES = ("float16", "bfloat16")
EPILOGUES = ("none", "gelu_tanh", "silu", "gate_residual")

#: Shared memory in bytes that a block may use on every supported GPU (sm_86, 89, 120: 99 KiB).
MAX_SHARED_BYTES = 99 * 1024

#: Kernels for one architecture alone (compute capability times ten), and what a block has there.
ONLY_SM = {"wgmma": 90}
_ONLY_SM_SHARED_BYTES = {90: LARGEST_SHARED_BYTES}

_LANES = 32
_CODEBOOK_ROW_BYTES = 128
_ELEMENT_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Tile:
    """How a kernel divides its work.

    Args:
        block_m, block_n: outputs of a block: rows of x by rows of the weight.
        warp_m, warp_n: outputs of a warp.
        stages: gemm, wgmma: tiles of x in flight; gemv: steps of 64 columns whose indices a warp
            loads ahead (a block holds split_k times as many of x); decode: steps that a block
            decodes.
        split_k: slices of the columns that the warps of a block share out; their sums are added in
            a fixed order, so that kernels with the same split_k give the same bits.
        min_blocks: blocks per multiprocessor that registers must leave room for.
    """

    block_m: int
    block_n: int
    warp_m: int
    warp_n: int
    stages: int
    split_k: int = 1
    min_blocks: int = 1


#: From the tile for most rows to the one for fewest; then those of 96 columns, which cut the widths
#: of DiT-XL/2 (1152, 3456, 4608) into numbers of blocks that fit more multiprocessors; then those
#: that need no more shared memory than every launcher grants (sm_limits.UNASKED_SHARED_BYTES).
GEMM_TILES = (
    Tile(block_m=128, block_n=128, warp_m=64, warp_n=64, stages=3, min_blocks=2),
    Tile(block_m=128, block_n=128, warp_m=64, warp_n=32, stages=3),
    Tile(block_m=128, block_n=64, warp_m=64, warp_n=32, stages=3, min_blocks=2),
    Tile(block_m=64, block_n=64, warp_m=32, warp_n=32, stages=4, min_blocks=2),
    Tile(block_m=64, block_n=64, warp_m=32, warp_n=32, stages=3, split_k=2),
    Tile(block_m=128, block_n=96, warp_m=64, warp_n=48, stages=3, min_blocks=2),
    Tile(block_m=64, block_n=96, warp_m=32, warp_n=48, stages=3, split_k=2),
    Tile(block_m=64, block_n=96, warp_m=32, warp_n=48, stages=2, min_blocks=2),
    Tile(block_m=64, block_n=64, warp_m=32, warp_n=32, stages=2, min_blocks=3),
)

#: For at most 8 and at most 16 rows of x; more rows work, but read the assignments again.
GEMV_TILES = (
    Tile(block_m=16, block_n=64, warp_m=16, warp_n=64, stages=5, split_k=4, min_blocks=2),
    Tile(block_m=8, block_n=64, warp_m=8, warp_n=64, stages=5, split_k=4, min_blocks=2),
    Tile(block_m=8, block_n=32, warp_m=8, warp_n=32, stages=5, split_k=4, min_blocks=3),
    Tile(block_m=8, block_n=64, warp_m=8, warp_n=64, stages=3, split_k=4, min_blocks=2),
)

#: For the weight itself.
DECODE_TILES = (Tile(block_m=1, block_n=32, warp_m=1, warp_n=4, stages=6),)

#: For Hopper's wgmma: a warpgroup takes 64 rows of the weight, each of its warps 16 of them.
WGMMA_TILES = (
    Tile(block_m=128, block_n=128, warp_m=128, warp_n=16, stages=5),
    Tile(block_m=192, block_n=128, warp_m=192, warp_n=16, stages=5),
    Tile(block_m=96, block_n=192, warp_m=96, warp_n=16, stages=5),
    Tile(block_m=96, block_n=128, warp_m=96, warp_n=16, stages=5, min_blocks=2),
    Tile(block_m=64, block_n=128, warp_m=64, warp_n=16, stages=4, split_k=2),
    Tile(block_m=64, block_n=64, warp_m=64, warp_n=16, stages=4, split_k=2, min_blocks=2),
)

TILES = {
    "gemm": GEMM_TILES,
    "gemv": GEMV_TILES,
    "decode": DECODE_TILES,
    "wgmma": WGMMA_TILES,
}


@dataclass(frozen=True, kw_only=True)
class KernelConfiguration:
    """One kernel to compile.

    Args:
        kernel: "gemm", "gemv" (few rows), "decode" (the weight itself) or "wgmma" (a gemm for
            compute capability 9.0 alone).
        dtype: of x, codebook, bias, gate and y; residual sums are float32 in any case.
        codebook_size, sub_vector_len, group_order: the quantization, as in Layout.
        epilogue: "none", "gelu_tanh", "silu" or "gate_residual", after the bias.
        tile: how the work is divided.
    Raises:
        OptionError: a name is unknown, or the tile cannot work.   ShapeError: no kernel is made
            for such a quantization.
    """

    kernel: str
    dtype: str = "float16"
    codebook_size: int = 256
    sub_vector_len: int = 4
    group_order: GroupOrder = GroupOrder.MMA16
    epilogue: str = "none"
    tile: Tile = GEMM_TILES[0]

    def __post_init__(self) -> None:
        """Check at once: a configuration that exists can be compiled."""
        object.__setattr__(self, "group_order", GroupOrder(self.group_order))
        self.validate()

    @property
    def block_m(self) -> int:
        """Rows of x that a block multiplies."""
        return self.tile.block_m

    @property
    def block_n(self) -> int:
        """Rows of the weight that a block multiplies or decodes."""
        return self.tile.block_n

    @property
    def block_k(self) -> int:
        """Columns that a block multiplies between two barriers."""
        steps = self.tile.stages if self.kernel == "gemv" else 1
        return STEP_COLUMNS * self.tile.split_k * steps

    @property
    def stages(self) -> int:
        """Tiles of x in flight (gemm)."""
        return self.tile.stages

    @property
    def split_k(self) -> int:
        """Slices of the columns that the warps of a block share out."""
        return self.tile.split_k

    @property
    def warps(self) -> int:
        """Warps of a block."""
        tile = self.tile
        return (tile.block_m // tile.warp_m) * (tile.block_n // tile.warp_n) * tile.split_k

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.warps * _LANES

    @property
    def only_sm(self) -> int | None:
        """The architecture (compute capability times ten) it can run on; None for all."""
        return ONLY_SM.get(self.kernel)

    @property
    def max_shared_bytes(self) -> int:
        """Dynamic shared memory in bytes that a block of this kernel may have."""
        return MAX_SHARED_BYTES if self.only_sm is None else _ONLY_SM_SHARED_BYTES[self.only_sm]

    @property
    def index_bits(self) -> int:
        """Bits of one packed index."""
        return self._layout().index_bits

    @property
    def codebook_bytes(self) -> int:
        """Shared memory in bytes of the replicated codebook: one row of all banks per index."""
        return (1 << self.index_bits) * _CODEBOOK_ROW_BYTES

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block in bytes."""
        if self.kernel == "decode":
            return self.codebook_bytes
        return self.codebook_bytes + max(self._x_bytes(), self._slice_sum_bytes())

    @property
    def name(self) -> str:
        """The kernel's entry point: unique to the configuration."""
        tile = self.tile
        parts = [
            f"vq4dit_{self.kernel}",
            {"float16": "f16", "bfloat16": "bf16"}[self.dtype],
            f"k{self.codebook_size}d{self.sub_vector_len}",
            self.group_order.name.lower(),
            self.epilogue,
            f"{tile.block_m}x{tile.block_n}",
            f"w{self.warps}s{tile.stages}",
        ]
        return "_".join(parts + ([f"split{tile.split_k}"] if tile.split_k > 1 else []))

    @property
    def source(self) -> str:
        """Name of the source file beside this module."""
        return f"{self.kernel}.cu"

    def macros(self) -> dict[str, str]:
        """Preprocessor definitions for the source."""
        tile = self.tile
        numbers = {
            "BFLOAT16": int(self.dtype == "bfloat16"),
            "CODEBOOK_SIZE": self.codebook_size,
            "SUB_VECTOR_LEN": self.sub_vector_len,
            "INDEX_BITS": self.index_bits,
            "GROUP_ORDER": int(self.group_order),
            "EPILOGUE": EPILOGUES.index(self.epilogue),
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "WARP_M": tile.warp_m,
            "WARP_N": tile.warp_n,
            "STAGES": tile.stages,
            "SPLIT_K": tile.split_k,
            "MIN_BLOCKS": tile.min_blocks,
        }
        return {"VQ_KERNEL_NAME": self.name} | {f"VQ_{n}": str(v) for n, v in numbers.items()}

    def validate(self) -> None:
        """Raise OptionError or ShapeError unless the kernel can be compiled and launched."""
        for field, values in (("kernel", KERNELS), ("dtype", DTYPES), ("epilogue", EPILOGUES)):
            if getattr(self, field) not in values:
                raise OptionError(
                    f"{field} is {getattr(self, field)!r}, needed one of {', '.join(values)}"
                )
        self._layout()
        if self.tile not in TILES[self.kernel]:
            raise OptionError(
                f"no {self.kernel} kernel has the tile {self.tile}; choose from "
                f"{self.kernel.upper()}_TILES"
            )
        if self.kernel == "decode" and self.epilogue != "none":
            raise OptionError(f"decode has no epilogue, found {self.epilogue}; needed none")
        if self.shared_bytes > self.max_shared_bytes:
            raise OptionError(
                f"{self.name} needs {self.shared_bytes} bytes of shared memory, a block has "
                f"{self.max_shared_bytes}; choose a smaller tile or fewer stages"
            )

    def layout(self, in_features: int) -> Layout:
        """The layout of a layer that this kernel reads.

        Raises:
            ShapeError: the layer's rows do not fit: x must start each row at 16 bytes.
        """
        if in_features % 8:
            raise ShapeError(
                f"in_features is {in_features}, the CUDA kernels need a multiple of 8; "
                "leave this layer unquantized"
            )
        return replace(self._layout(), in_features=in_features)

    def _layout(self) -> Layout:
        """A layout of this quantization; ShapeError where the lanes' bytes do not fit."""
        return Layout(
            in_features=ORDER_PERIOD.get(self.group_order, STEP_COLUMNS),
            codebook_size=self.codebook_size,
            sub_vector_len=self.sub_vector_len,
            group_order=self.group_order,
            assignment_layout=AssignmentLayout.MMA_LANES,
        )

    def _x_bytes(self) -> int:
        """Shared memory in bytes of what a block holds of x."""
        tile = self.tile
        row_bytes = STEP_COLUMNS * tile.split_k * _ELEMENT_BYTES
        if self.kernel in ("gemm", "wgmma"):
            return tile.stages * tile.block_m * row_bytes
        # One chunk of 16 bytes more per row against bank conflicts, and a line of zeros.
        return tile.block_m * (tile.stages * row_bytes + 16) + 128

    def _slice_sum_bytes(self) -> int:
        """Shared memory in bytes through which the slices' float32 sums are added."""
        tile = self.tile
        return (tile.split_k - 1) * tile.block_m * tile.block_n * 4


def supported_tiles(kernel: str) -> tuple[Tile, ...]:
    """Tiles that `kernel` is made for; OptionError for an unknown kernel."""
    if kernel not in TILES:
        raise OptionError(f"kernel is {kernel!r}, needed one of {', '.join(KERNELS)}")
    return TILES[kernel]
