"""The launches that the cost model chooses among: tiles, warps, resources and instruction counts.

One `Tile` is one compiled GEMM variant, ours or a GEMM library's. Resources of ours are those that
ptxas reports for compute capability 8.0 (`benchmarks/cuda_static.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

_WARP = 32


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One GEMM kernel variant.

    Args:
        rows, columns: of y that one thread block computes (BM, BN).
        depth: columns of x per main-loop step (BK).
        warp_rows, warp_columns: of the part of it that one warp computes.
        k_groups: groups of warps that split the steps between them and add up at the end.
        stages: steps in flight.
        registers: of one thread.
        loop_instructions: of one warp in one main-loop step.
    """

    rows: int
    columns: int
    depth: int
    warp_rows: int
    warp_columns: int
    stages: int
    registers: int
    loop_instructions: int
    k_groups: int = 1

    @property
    def name(self) -> str:
        """Such as 128x64x64 or 64x64x64/2 (two groups of warps along K)."""
        split = f"/{self.k_groups}" if self.k_groups > 1 else ""
        return f"{self.rows}x{self.columns}x{self.depth}{split}"

    @property
    def warps(self) -> int:
        """Warps of one thread block."""
        across = (self.rows // self.warp_rows) * (self.columns // self.warp_columns)
        return across * self.k_groups

    @property
    def threads(self) -> int:
        """Threads of one thread block."""
        return _WARP * self.warps


def _tile(
    shape: tuple[int, int, int],
    warp: tuple[int, int],
    stages: int,
    registers: int,
    loop: int,
    k_groups: int = 1,
) -> Tile:
    return Tile(
        rows=shape[0],
        columns=shape[1],
        depth=shape[2],
        warp_rows=warp[0],
        warp_columns=warp[1],
        stages=stages,
        registers=registers,
        loop_instructions=loop,
        k_groups=k_groups,
    )


#: Ours.
CODEBOOK_TILES: tuple[Tile, ...] = (
    _tile((128, 128, 64), (64, 64), 3, 206, 349),
    _tile((128, 128, 64), (64, 32), 3, 136, 193),
    _tile((128, 64, 64), (64, 32), 3, 136, 208),
    _tile((64, 64, 64), (32, 32), 4, 91, 149),
)

#: What a GEMM library is taken to have on mma.sync: shapes of CUTLASS's device library. Its
#: instruction counts follow that of one measured fp16 loop (331 for a warp tile of 64 x 64).
LIBRARY_TILES: tuple[Tile, ...] = (
    _tile((256, 128, 64), (64, 64), 3, 230, 331),
    _tile((128, 256, 64), (64, 64), 3, 230, 331),
    _tile((256, 128, 32), (64, 64), 3, 230, 172),
    _tile((128, 256, 32), (64, 64), 3, 230, 172),
    _tile((128, 128, 64), (64, 64), 4, 230, 331),
    _tile((128, 128, 32), (64, 64), 4, 230, 172),
    _tile((128, 128, 64), (64, 32), 4, 140, 190),
    _tile((128, 64, 64), (64, 32), 4, 140, 190),
    _tile((64, 128, 64), (32, 64), 4, 140, 190),
    _tile((64, 64, 64), (32, 32), 5, 100, 130),
)
