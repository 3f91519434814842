"""How a kernel is launched for a layer: grid, block, shared memory.

Only the grid's x extent of gemm and gemv depends on M, so that a plugin can write the launch down
with symbolic M: x = ceil(M / rows_per_block).
"""

from __future__ import annotations

from dataclasses import dataclass

from vq4dit.errors import ShapeError

from ..layout import STEP_COLUMNS
from .configuration import KernelConfiguration

#: Largest y extent of a grid on every GPU.
_MAX_GRID_Y = 65535


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch: blocks (x, y, z), threads (x, y, z), dynamic shared memory in bytes."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int


def rows_per_block(configuration: KernelConfiguration) -> int:
    """Rows of x for which the grid has one block in x; 0 where the grid does not depend on M."""
    return 0 if configuration.kernel == "decode" else configuration.block_m


def launch_geometry(
    configuration: KernelConfiguration, *, m: int, n: int, k: int, row_groups: int = 1
) -> Launch:
    """The launch for a layer (O = n, I = k) and m rows of x (any m for decode).

    Raises:
        ShapeError: n is not a multiple of row_groups, k does not fit, or the grid is too large.
    """
    configuration.layout(k)
    if m < 1 or n < 1 or row_groups < 1 or n % row_groups:
        raise ShapeError(
            f"m = {m}, n = {n} and row_groups = {row_groups} must be positive, and n a multiple "
            "of row_groups"
        )
    tiles = row_groups * -(-n // row_groups // configuration.block_n)
    if tiles > _MAX_GRID_Y:
        raise ShapeError(f"{n} rows in {row_groups} groups need {tiles} blocks, a grid has 65535")
    rows = rows_per_block(configuration)
    steps = -(-k // STEP_COLUMNS)
    return Launch(
        grid=(-(-m // rows) if rows else -(-steps // configuration.stages), tiles, 1),
        block=(configuration.threads, 1, 1),
        shared_bytes=configuration.shared_bytes,
    )
