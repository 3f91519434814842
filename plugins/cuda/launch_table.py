"""The launches that the cost model chooses among: what one thread block does, holds and executes.

Ours are the tiles of `configuration.TILES` with the counts that ptxas and nvdisasm give for compute
capability 8.0, for wgmma 9.0 (`benchmarks/cuda_static.py`; a test compares). Those of a GEMM
library are shapes of CUTLASS's device library with counts scaled from one plain float16 GEMM.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .configuration import DECODE_TILES, GEMM_TILES, GEMV_TILES, ONLY_SM, WGMMA_TILES, Tile
from .sm_limits import WARP

#: Columns of x that one round of a main loop takes.
STEP = 64


@dataclass(frozen=True, kw_only=True)
class LaunchTile:
    """One GEMM or GEMV variant.

    Args:
        block_m, block_n: rows of x and rows of W of one block; warp_m, warp_n: of one warp.
        depth: columns of one main-loop step.
        split_k: slices of the columns that the warps of a block share out.
        steps_ahead: steps that are loaded before they are needed: those of the later of x and W.
        stages: steps of x (and of a dense W) that a block holds.
        registers: of one thread; loop_instructions: of one warp in one step.
        only_sm: the compute capability (times ten) it is made for alone, whose warpgroups multiply
            64 rows of W by what lies in shared memory of x; None for all others.
    """

    block_m: int
    block_n: int
    warp_m: int
    warp_n: int
    stages: int
    steps_ahead: int
    registers: int
    loop_instructions: float
    depth: int = STEP
    split_k: int = 1
    only_sm: int | None = None

    @property
    def name(self) -> str:
        """Such as 128x64x64 w4 (warps), with /2 for two slices of the columns."""
        split = f"/{self.split_k}" if self.split_k > 1 else ""
        wgmma = " wgmma" if self.only_sm else ""
        return f"{self.block_m}x{self.block_n}x{self.depth} w{self.warps}{split}{wgmma}"

    @property
    def slice_warps(self) -> int:
        """Warps of one slice."""
        return (self.block_m // self.warp_m) * (self.block_n // self.warp_n)

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.slice_warps * self.split_k

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return WARP * self.warps


#: (kernel, tile's name) -> registers of a thread, instructions of a warp in one round of the main
#: loop: 64 columns of a GEMM, `stages` times 64 of a GEMV, twice 64 of wgmma. 2 bits, mma16, for
#: compute capability 8.0, of wgmma 9.0.
CODE_COUNTS: dict[tuple[str, str], tuple[int, int]] = {
    ("gemm", "128x128 w4s3"): (227, 327),
    ("gemm", "128x128 w8s3"): (156, 185),
    ("gemm", "128x64 w4s3"): (154, 199),
    ("gemm", "64x64 w4s4"): (106, 147),
    ("gemm", "64x64 w8s3/2"): (100, 157),
    ("gemm", "64x96 w8s3/2"): (128, 203),
    ("gemm", "128x96 w4s3"): (191, 265),
    ("gemm", "64x96 w4s2"): (136, 193),
    ("gemm", "64x64 w4s2"): (108, 144),
    ("gemv", "16x64 w4s5/4"): (167, 1028),
    ("gemv", "8x64 w4s5/4"): (167, 1029),
    ("gemv", "8x32 w4s5/4"): (118, 638),
    ("gemv", "8x64 w4s3/4"): (167, 694),
    ("wgmma", "128x128 w8s5"): (146, 221),
    ("wgmma", "192x128 w8s5"): (180, 232),
    ("wgmma", "96x192 w12s5"): (128, 209),
    ("wgmma", "96x128 w8s5"): (128, 215),
    ("wgmma", "64x128 w16s4/2"): (112, 234),
    ("wgmma", "64x64 w8s4/2"): (114, 241),
}


def count_key(kernel: str, tile: Tile) -> tuple[str, str]:
    """Key of CODE_COUNTS."""
    warps = (tile.block_m // tile.warp_m) * (tile.block_n // tile.warp_n) * tile.split_k
    split = f"/{tile.split_k}" if tile.split_k > 1 else ""
    return kernel, f"{tile.block_m}x{tile.block_n} w{warps}s{tile.stages}{split}"


def _ours(kernel: str, tile: Tile) -> LaunchTile:
    """A configured tile with its counts, estimated where none are in the table."""
    is_gemv = kernel == "gemv"
    registers, loop = CODE_COUNTS.get(count_key(kernel, tile)) or _estimate(tile, is_gemv=is_gemv)
    # Of the later of x and assignments, whose loads are one, two or (of a GEMV) all steps ahead.
    ahead = {"gemm": 1, "gemv": tile.stages, "wgmma": 2}[kernel]
    steps_in_loop = {"gemm": 1, "gemv": tile.stages, "wgmma": 2}[kernel]
    return LaunchTile(
        block_m=tile.block_m,
        block_n=tile.block_n,
        warp_m=tile.warp_m,
        warp_n=tile.warp_n,
        stages=tile.stages,
        steps_ahead=ahead,
        registers=registers,
        loop_instructions=loop / steps_in_loop,
        split_k=tile.split_k,
        only_sm=ONLY_SM.get(kernel),
    )


def _estimate(tile: Tile, *, is_gemv: bool) -> tuple[int, int]:
    """Registers and instructions of a tile that was not counted: products, look-ups, the rest."""
    products = max(tile.warp_m, 16) * tile.warp_n * STEP // (16 * 8 * 16)
    lookups = tile.warp_n * STEP // (8 * 16)
    loop = products + 3 * lookups + max(tile.warp_m, 16) // 4 + 60
    registers = min(255, 100 + max(tile.warp_m, 16) * tile.warp_n // 32)
    return registers, loop * (tile.stages if is_gemv else 1)


def _library(
    shape: tuple[int, int, int],
    warp: tuple[int, int],
    stages: int,
    split_k: int = 1,
    only_sm: int | None = None,
) -> LaunchTile:
    """A plain float16 GEMM; instructions: products, fragments and copies, and 40 of the rest."""
    rows, columns, depth = shape
    products = warp[0] * warp[1] * depth // (16 * 8 * 16)
    fragments = (warp[0] + warp[1]) * depth // (16 * 16)
    threads = WARP * (rows // warp[0]) * (columns // warp[1]) * split_k
    copies = (rows + columns) * depth * split_k // (8 * threads)
    return LaunchTile(
        block_m=rows,
        block_n=columns,
        warp_m=warp[0],
        warp_n=warp[1],
        depth=depth,
        stages=stages,
        steps_ahead=stages - 1,
        registers=min(255, 100 + warp[0] * warp[1] // 32),
        loop_instructions=products + fragments + 3 * copies + 40,
        split_k=split_k,
        only_sm=only_sm,
    )


#: Ours.
CODEBOOK_GEMMS = tuple(_ours("gemm", tile) for tile in GEMM_TILES)
CODEBOOK_GEMVS = tuple(_ours("gemv", tile) for tile in GEMV_TILES)
CODEBOOK_WGMMAS = tuple(_ours("wgmma", tile) for tile in WGMMA_TILES)
DECODES = DECODE_TILES

_ENTRY = re.compile(
    r"vq4dit_(?P<kernel>gemm|gemv|wgmma)_.*_(?P<block_m>\d+)x(?P<block_n>\d+)_w(?P<warps>\d+)"
    r"s(?P<stages>\d+)(?:_split(?P<split_k>\d+))?"
)


def tile_of_entry(entry_point: str) -> LaunchTile | None:
    """The tile of a kernel by its entry point's name; None where no kernel here has it."""
    match = _ENTRY.fullmatch(entry_point)
    if match is None:
        return None
    names = ("block_m", "block_n", "warps", "stages", "split_k")
    wanted = tuple(int(match[name] or 1) for name in names)
    tiles = {"gemm": CODEBOOK_GEMMS, "gemv": CODEBOOK_GEMVS, "wgmma": CODEBOOK_WGMMAS}
    for tile in tiles[match["kernel"]]:
        if tuple(getattr(tile, name) for name in names) == wanted:
            return tile
    return None


#: A GEMM library's: more shapes than any is known to have, so that ours are not flattered; on
#: Hopper also those that ours have there, and larger ones.
LIBRARY_GEMMS = (
    _library((256, 128, 64), (64, 64), 3),
    _library((128, 256, 64), (64, 64), 3),
    _library((256, 128, 32), (64, 64), 3),
    _library((128, 256, 32), (64, 64), 3),
    _library((128, 128, 64), (64, 64), 4),
    _library((128, 128, 32), (64, 64), 4),
    _library((128, 128, 64), (64, 32), 4),
    _library((128, 64, 64), (64, 32), 4),
    _library((64, 128, 64), (32, 64), 4),
    _library((256, 64, 64), (64, 32), 4),
    _library((64, 256, 64), (32, 64), 4),
    _library((128, 96, 64), (64, 48), 3),
    _library((96, 128, 64), (48, 64), 3),
    _library((64, 96, 32), (32, 48), 3, split_k=2),
    _library((64, 64, 64), (32, 32), 5),
    _library((64, 64, 32), (32, 32), 4, split_k=2),
    *(
        _library((rows, columns, 64), warp, 3, only_sm=90)
        for rows, columns, warp in (
            (192, 128, (64, 64)),
            (128, 192, (64, 64)),
            (96, 192, (48, 64)),
            (192, 96, (64, 48)),
            (192, 192, (64, 64)),
            (256, 192, (64, 96)),
            (192, 256, (96, 64)),
        )
    ),
)
