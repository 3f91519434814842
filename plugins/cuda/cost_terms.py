"""A prediction, and how the limits of a launch make one: shared by the kernels of cost_model.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vq4dit.errors import ShapeError

from .efficiency import Efficiencies
from .gpu_table import Gpu
from .launch_table import LaunchTile


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says of one operation; predicted, never measured.

    Args:
        gpu: name in the table.
        kernel: "codebook_gemm", "codebook_gemv", "codebook_decode", "decode_then_gemm",
            "dense_gemm" or "dense_gemv"; tile: which of its variants, None where there is one.
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
    tile: LaunchTile | None
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
    def variant(self) -> str:
        """Name of the tile, "" where there is one variant only."""
        return self.tile.name if self.tile else ""

    @property
    def microseconds(self) -> float:
        """`seconds` in millionths."""
        return self.seconds * 1e6


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of x, y (the exchange between blocks included) and W; and what all blocks read."""

    x: float
    y: float
    weight: float
    to_blocks: float


@dataclass(frozen=True, kw_only=True)
class Work:
    """One operation on one GPU: sizes, kernel, how it was cut."""

    gpu: Gpu
    kernel: str
    tile: LaunchTile | None
    m: int
    n: int
    k: int
    resident: int
    busiest: int
    efficiencies: Efficiencies
    split_k: int = 1
    workspace_bytes: int = 0

    def predicted(self, limits: Mapping[str, float], fill: float) -> Prediction:
        """Put the limits together: the largest, and a share of the next one that is not hidden."""
        ordered = sorted(limits, key=lambda name: limits[name], reverse=True)
        main = limits[ordered[0]] + self.efficiencies.serial * limits[ordered[1]]
        launch = self.gpu.launch_seconds * self.efficiencies.launch
        start = launch + fill
        return Prediction(
            gpu=self.gpu.name,
            kernel=self.kernel,
            tile=self.tile,
            m=self.m,
            n=self.n,
            k=self.k,
            seconds=start + main,
            limit="launch" if start > limits[ordered[0]] else ordered[0],
            parts=dict(limits) | {"launch": launch, "fill": fill},
            blocks_per_sm=self.resident,
            waves=self.busiest,
            split_k=self.split_k,
            workspace_bytes=self.workspace_bytes,
            calibration=self.efficiencies.calibration,
        )


def memory_limits(
    gpu: Gpu, traffic: Traffic, efficiencies: Efficiencies, *, is_weight_in_l2: bool = False
) -> dict[str, float]:
    """Seconds of DRAM and of L2; activations come from L2 where they fit half of it."""
    activations = traffic.x + traffic.y
    dram_bytes = 0.0 if is_weight_in_l2 else traffic.weight
    if activations > gpu.l2_bytes / 2:
        dram_bytes += activations
    return {
        "dram": dram_bytes / (gpu.dram_bytes_per_second * efficiencies.dram),
        "l2": (traffic.to_blocks + traffic.y) / (gpu.l2_bytes_per_second * efficiencies.l2),
    }


def check_sizes(m: int, n: int, k: int) -> None:
    """Raise ShapeError unless all are positive."""
    for name, size in (("m", m), ("n", n), ("k", k)):
        if size < 1:
            raise ShapeError(f"{name} is {size}, needed a positive size")
