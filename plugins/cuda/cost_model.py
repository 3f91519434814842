"""How long one launch takes on a GPU, predicted: a roofline with waves, occupancy and five limits.

For a launch of `blocks` thread blocks on S multiprocessors (SMs), r of them resident per SM:

    busiest  = ceil(blocks / S)                       blocks that the busiest SM runs
    active   = min(r, busiest)                        of them at the same time
    tensor   = busiest * steps * BM*BN*BK / (rate * share) / clock
    shared   = busiest * steps * (wavefronts of x, of W or look-ups, and of writes) / clock
    issue    = busiest * steps * instructions of all warps / 4 / clock
    latency  = ceil(busiest / active) * steps * memory latency / (stages - 1)
    dram     = bytes that must come from or go to DRAM / bandwidth
    l2       = bytes that all blocks read and write / bandwidth of L2
    fill     = ceil(busiest / active) * (two memory latencies, or the codebook's replication)
    seconds  = launch + fill + largest limit + `serial` share of the second largest

ceil(blocks / S) is the wave quantisation: at M = 512 it matters more than the decoding. Weights are
cold (a step of DiT-XL/2 reads more than any L2 holds), activations come from L2 where x and y fit
half of it. Look-ups have no bank conflicts: every codeword is replicated over all banks.

Sources: roofline of Williams et al. 2009; wavefront and instruction counts by `benchmarks/
cuda_static.py` and the emulator's tests. All figures are predictions that rest on the calibration
they carry; none was measured here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from vq4dit.errors import OptionError, ShapeError
from vq4dit.plugins.layout import CONFIGURATIONS

from .efficiency import ASSUMED, Efficiencies
from .gpu_table import Gpu
from .launch_table import Tile
from .sm_limits import WARP

_HALF = 2  # bytes of a float16
_FLOAT = 4
#: Bytes of shared memory that one codeword takes once it is replicated over all 32 banks.
_REPLICATED_CODEWORD = 128

#: Rows of W per warp pair of the GEMV kernel, and rows of x that it takes.
GEMV_ROWS = 16
GEMV_MAX_M = 8
_GEMV_WARPS = 8
_GEMV_SPLIT = 2


@dataclass(frozen=True, kw_only=True)
class CodebookFormat:
    """How a quantized weight is stored: K codewords of d weights, `index_bits` per sub-vector."""

    codebook_size: int
    sub_vector_len: int
    index_bits: int
    row_groups: int = 1

    @classmethod
    def from_bits(cls, bits: int, *, row_groups: int = 1) -> CodebookFormat:
        """A named configuration, 1, 2, 3 or 4 bits per weight; OptionError for another one."""
        if bits not in CONFIGURATIONS:
            raise OptionError(f"bits is {bits}, needed one of {sorted(CONFIGURATIONS)}")
        size, length = CONFIGURATIONS[bits]
        return cls(
            codebook_size=size,
            sub_vector_len=length,
            index_bits=6 if size <= 64 else 8,
            row_groups=row_groups,
        )

    @property
    def bytes_per_weight(self) -> float:
        """Bytes of packed assignments per weight, codebooks apart."""
        return self.index_bits / self.sub_vector_len / 8

    @property
    def codebook_bytes(self) -> int:
        """Bytes of the codebooks of all row groups in float16."""
        return self.row_groups * self.codebook_size * self.sub_vector_len * _HALF

    @property
    def shared_bytes(self) -> int:
        """Shared memory of one codebook, replicated so that look-ups have no conflicts."""
        return self.codebook_size * _REPLICATED_CODEWORD

    def num_bytes(self, n: int, k: int) -> float:
        """Bytes of a weight (n, k)."""
        return n * k * self.bytes_per_weight + self.codebook_bytes


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says of one operation; predicted, never measured.

    Args:
        gpu: name in the table.
        kernel: such as "codebook_gemm"; variant: its tile, "" where there is one only.
        m, n, k: rows of x, out_features, in_features.
        seconds: from the end of the kernel before to the end of this one.
        limit: what binds: "launch", "tensor", "shared", "issue", "latency", "dram" or "l2".
        parts: seconds of each limit by itself, and of "launch" and "fill".
        blocks_per_sm: resident at the same time; waves: blocks that the busiest SM runs.
        split_k: blocks that share one tile of y; workspace_bytes: what they exchange.
        num_launches: kernels that the operation takes.
        calibration: what the efficiencies rest on.
    """

    gpu: str
    kernel: str
    variant: str
    m: int
    n: int
    k: int
    seconds: float
    limit: str
    parts: Mapping[str, float]
    blocks_per_sm: int
    waves: int
    calibration: str
    split_k: int = 1
    workspace_bytes: int = 0
    num_launches: int = 1

    @property
    def microseconds(self) -> float:
        """`seconds` in millionths."""
        return self.seconds * 1e6


def predict_gemm(
    gpu: Gpu,
    tile: Tile,
    m: int,
    n: int,
    k: int,
    *,
    weight: CodebookFormat | None,
    split_k: int = 1,
    is_weight_in_l2: bool = False,
    bytes_per_output: float = _HALF,
    efficiencies: Efficiencies = ASSUMED,
) -> Prediction | None:
    """One tiled launch y (m, n) = x (m, k) W^T; None where the tile does not fit on the GPU.

    Args:
        weight: how W is stored; None for float16, multiplied by a GEMM library.
        split_k: blocks that share one tile of y and add up through L2.
        is_weight_in_l2: W was written just before and still lies there.
        bytes_per_output: read and written by the epilogue per element of y.
    Raises:
        ShapeError: a size is not positive.
    """
    _check_sizes(m, n, k)
    shared_bytes = _shared_bytes(tile, weight)
    resident = gpu.limits.resident_blocks(
        threads=tile.threads, registers=tile.registers, shared_bytes=shared_bytes
    )
    if resident == 0:
        return None
    blocks = ceil(m / tile.rows) * ceil(n / tile.columns) * split_k
    busiest = ceil(blocks / gpu.num_sms)
    active = min(resident, busiest)
    steps = ceil(k / split_k / tile.depth)
    limits = _step_limits(gpu, tile, weight, active * tile.warps, efficiencies)
    parts = {name: busiest * steps * cycles / gpu.clock_hz for name, cycles in limits.items()}
    rounds = ceil(busiest / active)
    wait = gpu.memory_latency_seconds / (tile.stages - 1)
    parts["latency"] = rounds * ceil(steps / tile.k_groups) * wait
    y_bytes = m * n * bytes_per_output
    traffic = _Traffic(
        x=m * k * _HALF,
        y=y_bytes + (2 * _FLOAT * m * n * split_k if split_k > 1 else 0),
        weight=weight.num_bytes(n, k) if weight else n * k * _HALF,
        to_blocks=blocks * k / split_k * (tile.rows * _HALF + tile.columns * _stored(weight)),
    )
    parts |= _memory_limits(gpu, traffic, is_weight_in_l2, efficiencies)
    codebook = weight.shared_bytes / gpu.shared_bytes_per_clock / gpu.clock_hz if weight else 0.0
    fill = rounds * max(2 * gpu.memory_latency_seconds, codebook)
    return _prediction(
        gpu, "codebook_gemm" if weight else "dense_gemm", tile.name, (m, n, k), parts, fill,
        efficiencies, resident=resident, busiest=busiest, split_k=split_k,
        workspace_bytes=_FLOAT * m * n * split_k if split_k > 1 else 0,
    )  # fmt: skip


def predict_gemv(
    gpu: Gpu,
    m: int,
    n: int,
    k: int,
    *,
    weight: CodebookFormat | None,
    efficiencies: Efficiencies = ASSUMED,
) -> Prediction:
    """Few rows of x: W's rows are the mma's 16 rows, x its 8 columns.

    Raises:
        ShapeError: a size is not positive, or m > 8 for a quantized weight.
    """
    _check_sizes(m, n, k)
    if weight and m > GEMV_MAX_M:
        raise ShapeError(f"codebook_gemv takes at most {GEMV_MAX_M} rows of x, found {m}")
    rows_per_block = GEMV_ROWS * _GEMV_WARPS // _GEMV_SPLIT
    blocks = ceil(n / rows_per_block)
    busiest = ceil(blocks / gpu.num_sms)
    shared_bytes = (weight.shared_bytes if weight else 0) + GEMV_MAX_M * (k + 16) * _HALF
    resident = max(
        1,
        gpu.limits.resident_blocks(
            threads=WARP * _GEMV_WARPS, registers=48, shared_bytes=shared_bytes
        ),
    )  # fmt: skip
    weights_per_sm = busiest * rows_per_block * k
    x_and_w = 3 if weight else 1  # 2 wavefronts for each of 2 codewords and of x, per 256 weights
    parts = {
        "shared": weights_per_sm / 256 * 2 * x_and_w / gpu.clock_hz / efficiencies.shared,
        "issue": weights_per_sm / 1024 * 15 / gpu.issue_per_clock / gpu.clock_hz,
    }
    weight_bytes = weight.num_bytes(n, k) if weight else n * k * _HALF
    traffic = _Traffic(
        x=m * k * _HALF, y=m * n * _HALF, weight=weight_bytes,
        to_blocks=weight_bytes + blocks * m * k * _HALF,
    )  # fmt: skip
    parts |= _memory_limits(gpu, traffic, False, efficiencies)
    codebook = weight.shared_bytes / gpu.shared_bytes_per_clock / gpu.clock_hz if weight else 0.0
    rounds = ceil(busiest / min(resident, busiest))
    # Blocks that follow find their memory pipeline full: only the codebook is filled anew.
    fill = max(2 * gpu.memory_latency_seconds, codebook) + (rounds - 1) * codebook
    return _prediction(
        gpu, "codebook_gemv" if weight else "dense_gemv", "", (m, n, k), parts, fill,
        efficiencies, resident=resident, busiest=busiest,
    )  # fmt: skip


def predict_decode(
    gpu: Gpu,
    n: int,
    k: int,
    *,
    weight: CodebookFormat,
    efficiencies: Efficiencies = ASSUMED,
) -> tuple[Prediction, bool]:
    """The pass that writes the float16 weight (n, k), and whether it still lies in L2 afterwards.

    Raises:
        ShapeError: a size is not positive.
    """
    _check_sizes(1, n, k)
    dense = n * k * _HALF
    stays = dense <= gpu.l2_bytes * 0.7
    l2 = gpu.l2_bytes_per_second * efficiencies.l2
    dram_bytes = weight.num_bytes(n, k) + (0 if stays else dense)
    parts = {
        "shared": 2 * dense / gpu.shared_bytes_per_clock / gpu.num_sms / gpu.clock_hz,
        "dram": dram_bytes / (gpu.dram_bytes_per_second * efficiencies.dram),
        "l2": (dense + weight.num_bytes(n, k)) / l2,
    }
    codebook = weight.shared_bytes / gpu.shared_bytes_per_clock / gpu.clock_hz
    prediction = _prediction(
        gpu, "codebook_decode", "", (0, n, k), parts,
        max(2 * gpu.memory_latency_seconds, codebook), efficiencies, resident=4, busiest=4,
        workspace_bytes=dense,
    )  # fmt: skip
    return prediction, stays


@dataclass(frozen=True, kw_only=True)
class _Traffic:
    """Bytes of x, y (the exchange between blocks included) and W; and what all blocks read."""

    x: float
    y: float
    weight: float
    to_blocks: float


def _check_sizes(m: int, n: int, k: int) -> None:
    for name, size in (("m", m), ("n", n), ("k", k)):
        if size < 1:
            raise ShapeError(f"{name} is {size}, needed a positive size")


def _stored(weight: CodebookFormat | None) -> float:
    return weight.bytes_per_weight if weight else _HALF


def _shared_bytes(tile: Tile, weight: CodebookFormat | None) -> int:
    """x and, where it is dense, W of all stages; the replicated codebook where it is not."""
    columns = 0 if weight else tile.columns
    stages = tile.stages * (tile.rows + columns) * tile.depth * _HALF
    return stages + (weight.shared_bytes if weight else 0)


def _step_limits(
    gpu: Gpu, tile: Tile, weight: CodebookFormat | None, warps: int, efficiencies: Efficiencies
) -> dict[str, float]:
    """Cycles of one main-loop step of one block by each limit of an SM with this many warps."""
    is_wide = weight is None and gpu.library_mma_per_clock > gpu.mma_per_clock
    rate = gpu.library_mma_per_clock if weight is None else gpu.mma_per_clock
    share = efficiencies.codebook_tensor if weight else efficiencies.library_tensor
    if warps <= gpu.issue_per_clock and not is_wide:
        share *= efficiencies.one_warp
    tensor = tile.rows * tile.columns * tile.depth / (rate * share)
    if is_wide:  # operands go from shared memory straight to the tensor cores
        return {"tensor": tensor}
    row = tile.depth * _HALF / gpu.shared_bytes_per_clock  # wavefronts of one row of one step
    x_reads = tile.rows * (tile.columns // tile.warp_columns) * row
    w_reads = tile.columns * (tile.rows // tile.warp_rows) * row
    writes = (tile.rows + (0 if weight else tile.columns)) * row
    instructions = tile.loop_instructions * tile.warps / tile.k_groups
    return {
        "tensor": tensor,
        "shared": (x_reads + w_reads + writes) / efficiencies.shared,
        "issue": instructions / gpu.issue_per_clock / efficiencies.issue,
    }


def _memory_limits(
    gpu: Gpu, traffic: _Traffic, is_weight_in_l2: bool, efficiencies: Efficiencies
) -> dict[str, float]:
    activations = traffic.x + traffic.y
    dram_bytes = 0.0 if is_weight_in_l2 else traffic.weight
    if activations > gpu.l2_bytes / 2:
        dram_bytes += activations
    return {
        "dram": dram_bytes / (gpu.dram_bytes_per_second * efficiencies.dram),
        "l2": (traffic.to_blocks + traffic.y) / (gpu.l2_bytes_per_second * efficiencies.l2),
    }


def _prediction(
    gpu: Gpu,
    kernel: str,
    variant: str,
    sizes: tuple[int, int, int],
    parts: dict[str, float],
    fill: float,
    efficiencies: Efficiencies,
    *,
    resident: int,
    busiest: int,
    split_k: int = 1,
    workspace_bytes: int = 0,
) -> Prediction:
    """Put the limits together."""
    ordered = sorted(parts, key=lambda name: parts[name], reverse=True)
    main = parts[ordered[0]] + efficiencies.serial * parts[ordered[1]]
    start = gpu.launch_seconds + fill
    m, n, k = sizes
    return Prediction(
        gpu=gpu.name,
        kernel=kernel,
        variant=variant,
        m=m,
        n=n,
        k=k,
        seconds=start + main,
        limit="launch" if start > parts[ordered[0]] else ordered[0],
        parts=parts | {"launch": gpu.launch_seconds, "fill": fill},
        blocks_per_sm=resident,
        waves=busiest,
        split_k=split_k,
        workspace_bytes=workspace_bytes,
        calibration=efficiencies.calibration,
    )
