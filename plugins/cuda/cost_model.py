"""How long one launch takes on a GPU, predicted: a roofline with waves, occupancy and six limits.

For a launch of `blocks` thread blocks on S multiprocessors (SMs), r of them resident per SM:

    busiest  = ceil(blocks / S)                       blocks that the busiest SM runs
    active   = min(r, busiest)                        of them at the same time
    tensor   = busiest * steps * BM*BN*BK / (rate * share) / clock
    shared   = busiest * (steps * wavefronts of x, of W or look-ups and of writes
                          + the codebook's replication) / clock
    issue    = busiest * steps * instructions of all warps / 4 / clock
    latency  = ceil(busiest / active) * steps of one slice * memory latency / steps ahead
    dram     = bytes that must come from or go to DRAM / bandwidth
    l2       = bytes that all blocks read and write / bandwidth of L2
    fill     = ceil(busiest / active) * two memory latencies
    seconds  = launch + fill + largest limit + `serial` share of the second largest

ceil(blocks / S) is the wave quantisation: at M = 512 it matters more than the decoding. Weights are
cold (a step of DiT-XL/2 reads more than any L2 holds), activations come from L2 where x and y fit
half of it. Look-ups have no bank conflicts: every codeword is replicated over all banks.

Sources: roofline of Williams et al. 2009; instruction counts by `benchmarks/cuda_static.py`,
wavefronts by the emulator's tests. All figures are predictions that rest on the calibration they
carry; none was measured here.
"""

from __future__ import annotations

from math import ceil

from .codebook_format import CodebookFormat
from .cost_terms import Prediction, Traffic, Work, check_sizes, memory_limits
from .efficiency import ASSUMED, Efficiencies
from .gpu_table import Gpu
from .launch_table import STEP, LaunchTile

_HALF = 2  # bytes of a float16
_FLOAT = 4
#: Rows of a tensor-core product: fewer rows of x take as long.
_PRODUCT_ROWS = 16
#: Bytes that blocks read of those they use where pairs of blocks (clusters, compute capability 9.0)
#: share the loads of one operand.
_MULTICAST = 0.75
#: Bytes of one pass of the banks of shared memory.
_BANK_BYTES = 128
#: Rows of W that one wgmma multiplies by the rows of x that it reads from shared memory.
_WARPGROUP_ROWS = 64


def predict_gemm(
    gpu: Gpu,
    tile: LaunchTile,
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
    """One tiled launch y (m, n) = x (m, k) W^T; None where the tile does not run on the GPU.

    Args:
        weight: how W is stored; None for float16, multiplied by a GEMM library.
        split_k: blocks that share one tile of y and add up through L2.
        is_weight_in_l2: W was written just before and still lies there.
        bytes_per_output: read and written by the epilogue per element of y.
    Raises:
        ShapeError: a size is not positive.
    """
    check_sizes(m, n, k)
    resident = _resident(gpu, tile, gemm_shared_bytes(tile, weight))
    if resident == 0 or tile.only_sm not in (None, gpu.compute_capability):
        return None
    blocks = ceil(m / tile.block_m) * _column_blocks(n, tile, weight) * split_k
    busiest = ceil(blocks / gpu.num_sms)
    active = min(resident, busiest)
    steps = ceil(k / split_k / tile.depth)
    limits = _step_limits(gpu, tile, weight, active * tile.warps, efficiencies)
    seconds = {name: busiest * steps * cycles / gpu.clock_hz for name, cycles in limits.items()}
    if weight:
        seconds["shared"] += busiest * _fill_cycles(gpu, weight) / gpu.clock_hz
    rounds = ceil(busiest / active)
    wait = gpu.memory_latency_seconds / tile.steps_ahead
    seconds["latency"] = rounds * ceil(steps / tile.split_k) * wait
    stored = weight.bytes_per_weight if weight else _HALF
    traffic = Traffic(
        x=m * k * _HALF,
        y=m * n * bytes_per_output + (2 * _FLOAT * m * n * split_k if split_k > 1 else 0),
        weight=weight.num_bytes(n, k) if weight else n * k * _HALF,
        to_blocks=blocks
        * (k / split_k)
        * (tile.block_m * _HALF + tile.block_n * stored)
        * (_MULTICAST if _is_wide(gpu, weight) else 1),
    )
    seconds |= memory_limits(gpu, traffic, efficiencies, is_weight_in_l2=is_weight_in_l2)
    work = Work(
        gpu=gpu, kernel="codebook_gemm" if weight else "dense_gemm", tile=tile,
        m=m, n=n, k=k, resident=resident, busiest=busiest, efficiencies=efficiencies,
        split_k=split_k, workspace_bytes=_FLOAT * m * n * split_k if split_k > 1 else 0,
    )  # fmt: skip
    return work.predicted(seconds, rounds * 2 * gpu.memory_latency_seconds)


def predict_gemv(
    gpu: Gpu,
    tile: LaunchTile,
    m: int,
    n: int,
    k: int,
    *,
    weight: CodebookFormat,
    bytes_per_output: float = _HALF,
    efficiencies: Efficiencies = ASSUMED,
) -> Prediction | None:
    """Few rows of x by our kernel: every warp holds all of a block's rows of x.

    None where the tile does not fit on the GPU.

    Raises:
        ShapeError: a size is not positive.
    """
    check_sizes(m, n, k)
    resident = _resident(gpu, tile, gemv_shared_bytes(tile, weight))
    if resident == 0:
        return None
    row_blocks = ceil(m / tile.block_m)
    blocks = row_blocks * _column_blocks(n, tile, weight)
    busiest = ceil(blocks / gpu.num_sms)
    rounds = ceil(busiest / min(resident, busiest))
    steps = ceil(k / STEP)
    all_steps = busiest * steps
    shared = all_steps * sum(gemv_wavefronts(tile).values()) + busiest * _fill_cycles(gpu, weight)
    instructions = all_steps * tile.slice_warps * tile.loop_instructions
    products = all_steps * _PRODUCT_ROWS * tile.block_n * STEP
    rate = gpu.mma_per_clock * efficiencies.codebook_tensor
    seconds = {
        "tensor": products / rate / gpu.clock_hz,
        "shared": shared / efficiencies.shared / gpu.clock_hz,
        "issue": instructions / gpu.issue_per_clock / efficiencies.issue / gpu.clock_hz,
        "latency": rounds * ceil(steps / (tile.split_k * tile.stages)) * gpu.memory_latency_seconds,
    }
    traffic = Traffic(
        x=m * k * _HALF,
        y=m * n * bytes_per_output,
        weight=weight.num_bytes(n, k),
        to_blocks=row_blocks * weight.num_bytes(n, k) + blocks * min(m, tile.block_m) * k * _HALF,
    )
    seconds |= memory_limits(gpu, traffic, efficiencies)
    work = Work(
        gpu=gpu, kernel="codebook_gemv", tile=tile, m=m, n=n, k=k, resident=resident,
        busiest=busiest, efficiencies=efficiencies,
    )  # fmt: skip
    # Blocks that follow find the memory pipeline full.
    return work.predicted(seconds, 2 * gpu.memory_latency_seconds)


def predict_dense_gemv(
    gpu: Gpu,
    m: int,
    n: int,
    k: int,
    *,
    bytes_per_output: float = _HALF,
    efficiencies: Efficiencies = ASSUMED,
) -> Prediction:
    """Few rows of x by a float16 library: as fast as the weight can be read.

    Raises:
        ShapeError: a size is not positive.
    """
    check_sizes(m, n, k)
    weight = n * k * _HALF
    traffic = Traffic(x=m * k * _HALF, y=m * n * bytes_per_output, weight=weight, to_blocks=weight)
    work = Work(
        gpu=gpu, kernel="dense_gemv", tile=None, m=m, n=n, k=k, resident=1, busiest=1,
        efficiencies=efficiencies,
    )  # fmt: skip
    return work.predicted(memory_limits(gpu, traffic, efficiencies), 2 * gpu.memory_latency_seconds)


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
    check_sizes(1, n, k)
    dense = n * k * _HALF
    stays = dense <= gpu.l2_bytes * 0.7
    stored = weight.num_bytes(n, k)
    lookups = dense / gpu.shared_bytes_per_clock / gpu.num_sms
    seconds = {
        "shared": (lookups + _fill_cycles(gpu, weight)) / efficiencies.shared / gpu.clock_hz,
        "dram": (stored + (0 if stays else dense))
        / (gpu.dram_bytes_per_second * efficiencies.dram),
        "l2": (dense + stored) / (gpu.l2_bytes_per_second * efficiencies.l2),
    }
    work = Work(
        gpu=gpu, kernel="codebook_decode", tile=None, m=0, n=n, k=k, resident=4, busiest=4,
        efficiencies=efficiencies, workspace_bytes=dense,
    )  # fmt: skip
    return work.predicted(seconds, 2 * gpu.memory_latency_seconds), stays


def gemm_wavefronts(tile: LaunchTile, *, is_dense: bool) -> dict[str, float]:
    """Passes of the shared-memory banks in one step of one block, without conflicts.

    Reads of x, reads of W or look-ups of codewords, and writes of what cp.async brings.
    """
    row = tile.depth * _HALF / _BANK_BYTES  # passes of one row of one step
    columns = _WARPGROUP_ROWS if tile.only_sm else tile.warp_n
    return {
        "x": row * tile.block_m * (tile.block_n // columns),
        "w": row * tile.block_n * (tile.block_m // tile.warp_m),
        "writes": row * (tile.block_m + (tile.block_n if is_dense else 0)),
    }


def gemv_wavefronts(tile: LaunchTile) -> dict[str, float]:
    """The same for our GEMV: every warp reads 16 rows of x, zeros where there are none."""
    row = STEP * _HALF / _BANK_BYTES
    return {
        "x": row * _PRODUCT_ROWS * (tile.block_n // tile.warp_n),
        "w": row * tile.block_n,
        "writes": row * tile.block_m,
    }


def gemm_shared_bytes(tile: LaunchTile, weight: CodebookFormat | None) -> int:
    """Shared memory of a block: the stages of x, and of W or the replicated codebook."""
    rows = tile.block_m + (0 if weight else tile.block_n)
    stages = tile.stages * tile.split_k * rows * tile.depth * _HALF
    sums = (tile.split_k - 1) * tile.block_m * tile.block_n * _FLOAT  # in place of the stages
    return max(stages, sums) + (weight.shared_bytes if weight else 0)


def gemv_shared_bytes(tile: LaunchTile, weight: CodebookFormat) -> int:
    """The same of our GEMV: all rows of x for the steps held, and one row of zeros."""
    row = tile.stages * tile.split_k * STEP * _HALF + 16
    held = tile.block_m * row + _BANK_BYTES
    sums = (tile.split_k - 1) * tile.block_m * tile.block_n * _FLOAT
    return max(held, sums) + weight.shared_bytes


def _resident(gpu: Gpu, tile: LaunchTile, shared_bytes: int) -> int:
    return gpu.limits.resident_blocks(
        threads=tile.threads, registers=tile.registers, shared_bytes=shared_bytes
    )


def _is_wide(gpu: Gpu, weight: CodebookFormat | None) -> bool:
    """Whether a library multiplies by wgmma or tcgen05 with both operands in shared memory."""
    return weight is None and gpu.library_mma_per_clock > gpu.mma_per_clock


def _column_blocks(n: int, tile: LaunchTile, weight: CodebookFormat | None) -> int:
    """Blocks along the outputs; they do not cross row groups."""
    groups = weight.row_groups if weight else 1
    return groups * ceil(ceil(n / groups) / tile.block_n)


def _fill_cycles(gpu: Gpu, weight: CodebookFormat) -> float:
    """Cycles of shared memory in which a block replicates its codebook."""
    return weight.shared_bytes / gpu.shared_bytes_per_clock


def _step_limits(
    gpu: Gpu, tile: LaunchTile, weight: CodebookFormat | None, warps: int, e: Efficiencies
) -> dict[str, float]:
    """Cycles of one step of one block by each limit of an SM that holds this many warps."""
    is_wide = _is_wide(gpu, weight)
    is_widest = weight is None or tile.only_sm is not None
    rate = gpu.library_mma_per_clock if is_widest else gpu.mma_per_clock
    share = e.codebook_tensor if weight else e.library_tensor
    if warps <= gpu.issue_per_clock and not is_wide:
        share *= e.one_warp
    tensor = tile.block_m * tile.block_n * tile.depth / (rate * share)
    if is_wide:  # operands go from shared memory straight to the tensor cores
        return {"tensor": tensor}
    wavefronts = gemm_wavefronts(tile, is_dense=weight is None)
    return {
        "tensor": tensor,
        "shared": sum(wavefronts.values()) / e.shared,
        "issue": tile.loop_instructions * tile.slice_warps / gpu.issue_per_clock / e.issue,
    }
