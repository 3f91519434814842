"""Measured times of launches on a GPU, read from the rows that benchmarks/gpu_acceptance.py writes.

A row is {"gpu", "kernel", "m", "n", "k", "dtype", "microseconds"} and may say "bits", "row_groups",
"op" and "ok"; kernel is the entry point of one of ours, or "cublas". Rows of what the cost model
does not predict (bfloat16 counts as float16; decoding, wrong results and untimed ones) are left
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vq4dit.errors import ArtifactError
from vq4dit.json_fields import Fields

from .codebook_format import CodebookFormat
from .cost_model import predict_gemm, predict_gemv
from .cost_terms import Prediction
from .efficiency import Efficiencies
from .gpu_table import Gpu
from .launch_table import CODEBOOK_GEMVS, LaunchTile, tile_of_entry
from .selection import choose_dense

LIBRARY = "cublas"

_MAX_SIZE = 1 << 31
_MAX_MICROSECONDS = 1e9


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One timed launch.

    Args:
        gpu: as the driver or the table names it; kernel: entry point, or "cublas".
        m, n, k: rows of x, out_features, in_features; bits, row_groups: of a quantized weight.
        seconds: from launch to launch with cold weights.
    """

    gpu: str
    kernel: str
    m: int
    n: int
    k: int
    bits: int
    row_groups: int
    seconds: float

    @property
    def tile(self) -> LaunchTile | None:
        """The tile of one of our kernels; None for cuBLAS or a tile that is no longer there."""
        return tile_of_entry(self.kernel)

    def predicted(self, gpu: Gpu, efficiencies: Efficiencies) -> Prediction | None:
        """What the model says of this launch; None where it cannot tell."""
        if self.kernel == LIBRARY:
            return choose_dense(gpu, self.m, self.n, self.k, efficiencies=efficiencies)
        tile = self.tile
        if tile is None:
            return None
        weight = CodebookFormat.from_bits(self.bits, row_groups=self.row_groups)
        predict = predict_gemv if tile in CODEBOOK_GEMVS else predict_gemm
        return predict(
            gpu, tile, self.m, self.n, self.k, weight=weight, efficiencies=efficiencies
        )  # fmt: skip


def measurements_from_rows(rows: Iterable[Mapping[str, Any]]) -> list[Measurement]:
    """Check rows and keep those that the model predicts.

    Raises:
        ArtifactError: a row lacks a key or has a value of a wrong type or range.
    """
    found = []
    for number, row in enumerate(rows):
        values = Fields(row, f"row {number}")
        is_timed = row.get("microseconds") is not None and row.get("ok", True)
        if not is_timed or row.get("op", "CodebookGemm") == "CodebookDecode":
            continue
        measurement = Measurement(
            gpu=values.text("gpu"),
            kernel=values.text("kernel"),
            m=values.integer("m", 1, _MAX_SIZE),
            n=values.integer("n", 1, _MAX_SIZE),
            k=values.integer("k", 1, _MAX_SIZE),
            bits=values.integer("bits", 1, 4) if "bits" in row else 2,
            row_groups=values.integer("row_groups", 1, _MAX_SIZE) if "row_groups" in row else 1,
            seconds=values.number("microseconds", 0.0, _MAX_MICROSECONDS) / 1e6,
        )
        if not measurement.seconds > 0:
            raise ArtifactError(f"row {number}.microseconds is 0, needed more")
        values.choice("dtype", ("float16", "bfloat16"))
        if measurement.kernel == LIBRARY or measurement.tile is not None:
            found.append(measurement)
    return found
