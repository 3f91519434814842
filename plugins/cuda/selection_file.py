"""The selection of kernels as data: what a GPU measured, in place of what the model predicts.

An autotuning run (`benchmarks/gpu_acceptance.py` on a GPU) yields rows; `selection_from_rows` keeps
the fastest kernel of each shape, `write_selection` stores them, and `select_kernel` answers from
them, or by the cost model where the shape was not measured.

    {"version": 1, "gpu": "a100-40", "calibration": "A100 ..., 2026-11-25",
     "entries": [{"m": 512, "n": 3456, "k": 1152, "bits": 2, "row_groups": 1,
                  "kernel": "vq4dit_gemm_...", "microseconds": 21.0}]}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vq4dit.errors import ArtifactError
from vq4dit.json_fields import Fields, parse_json
from vq4dit.json_file import write_json

from .codebook_format import CodebookFormat
from .efficiency import ASSUMED, Efficiencies
from .gpu_table import find_gpu
from .launch_table import LaunchTile, tile_of_entry
from .measurement import LIBRARY, measurements_from_rows
from .selection import AHEAD_OF_TIME, choose_codebook

_VERSION = 1
_MAX_BYTES = 16 << 20
_MAX_SIZE = 1 << 31


@dataclass(frozen=True, kw_only=True)
class SelectedKernel:
    """The fastest kernel of one shape: entry point, and microseconds that were measured."""

    m: int
    n: int
    k: int
    bits: int
    row_groups: int
    kernel: str
    microseconds: float


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Fastest kernels of one GPU.

    Args:
        gpu: name in the table; calibration: what was measured, where and when.
        entries: one per shape.
    """

    gpu: str
    calibration: str
    entries: tuple[SelectedKernel, ...]

    def find(self, m: int, n: int, k: int, *, bits: int, row_groups: int) -> SelectedKernel | None:
        """The entry of this weight for the nearest number of rows, at most a factor of two away."""
        weight = (n, k, bits, row_groups)
        known = [e for e in self.entries if (e.n, e.k, e.bits, e.row_groups) == weight]
        near = [e for e in known if max(e.m, m) <= 2 * min(e.m, m)]
        return min(near, key=lambda e: max(e.m, m) / min(e.m, m), default=None)


def select_kernel(
    gpu: str,
    m: int,
    n: int,
    k: int,
    *,
    bits: int = 2,
    row_groups: int = 1,
    selection: Selection | None = None,
    efficiencies: Efficiencies = ASSUMED,
) -> tuple[LaunchTile, str]:
    """The tile to launch for a quantized linear, one launch and no workspace, and what says so.

    Args:
        gpu: name in the table.
        m, n, k: rows of x, out_features, in_features.
        bits, row_groups: of the weight.
        selection: measured kernels of this GPU, asked first.
        efficiencies: of the model that is asked where nothing was measured.
    Returns:
        The tile, and the calibration that the choice rests on.
    Raises:
        OptionError: unknown GPU or bits.   ShapeError: a size is not positive.
        ArtifactError: the selection is of another GPU.
    """
    target = find_gpu(gpu)
    if selection is not None:
        if selection.gpu != target.name:
            raise ArtifactError(
                f"selection is of {selection.gpu}, needed {target.name}; measure on this GPU"
            )
        entry = selection.find(m, n, k, bits=bits, row_groups=row_groups)
        tile = tile_of_entry(entry.kernel) if entry else None
        if tile is not None:
            return tile, selection.calibration
    weight = CodebookFormat.from_bits(bits, row_groups=row_groups)
    chosen = choose_codebook(
        target, m, n, k, weight, launcher=AHEAD_OF_TIME, efficiencies=efficiencies
    )
    if chosen.tile is None:
        raise AssertionError(f"{chosen.kernel} of one launch has no tile")
    return chosen.tile, chosen.calibration


def selection_from_rows(gpu: str, calibration: str, rows: Iterable[Mapping[str, Any]]) -> Selection:
    """The fastest of our kernels for each measured shape.

    Raises:
        ArtifactError: a row is not as `measurement` says.   OptionError: unknown GPU.
    """
    best: dict[tuple[int, int, int, int, int], SelectedKernel] = {}
    for row in measurements_from_rows(rows):
        if row.kernel == LIBRARY:
            continue
        key = (row.m, row.n, row.k, row.bits, row.row_groups)
        found = SelectedKernel(
            m=row.m, n=row.n, k=row.k, bits=row.bits, row_groups=row.row_groups,
            kernel=row.kernel, microseconds=row.seconds * 1e6,
        )  # fmt: skip
        if key not in best or found.microseconds < best[key].microseconds:
            best[key] = found
    return Selection(
        gpu=find_gpu(gpu).name,
        calibration=calibration,
        entries=tuple(best[k] for k in sorted(best)),
    )


def write_selection(path: Path, selection: Selection) -> None:
    """Write the file whole or not at all; OSError where the disk does not take it."""
    write_json(
        path,
        {
            "version": _VERSION,
            "gpu": selection.gpu,
            "calibration": selection.calibration,
            "entries": [asdict(entry) for entry in selection.entries],
        },
    )


def read_selection(path: Path) -> Selection:
    """Read and check a file.

    Raises:
        ArtifactError: no such file, not JSON, or a value of a wrong type or range.
        OptionError: the GPU is not in the table.
    """
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        raise ArtifactError(f"{path}: needed a file of at most {_MAX_BYTES} bytes")
    root = Fields(parse_json(path.read_bytes(), str(path)), str(path))
    version = root.integer("version", 0, _MAX_SIZE)
    if version != _VERSION:
        raise ArtifactError(f"{path}: version is {version}, this program reads {_VERSION}")
    gpu = find_gpu(root.text("gpu")).name
    calibration = root.text("calibration")
    entries = root.values.get("entries")
    if not isinstance(entries, list):
        raise ArtifactError(f"{path}: entries must be a list")
    found = tuple(_entry(entry, f"{path}: entry {i}") for i, entry in enumerate(entries))
    shapes = [(e.m, e.n, e.k, e.bits, e.row_groups) for e in found]
    if len(set(shapes)) != len(shapes):
        raise ArtifactError(f"{path}: two entries are of the same shape")
    return Selection(gpu=gpu, calibration=calibration, entries=found)


def _entry(values: Any, where: str) -> SelectedKernel:
    fields = Fields(values, where)
    entry = SelectedKernel(
        m=fields.integer("m", 1, _MAX_SIZE),
        n=fields.integer("n", 1, _MAX_SIZE),
        k=fields.integer("k", 1, _MAX_SIZE),
        bits=fields.integer("bits", 1, 4),
        row_groups=fields.integer("row_groups", 1, _MAX_SIZE),
        kernel=fields.text("kernel"),
        microseconds=fields.number("microseconds", 0.0, 1e9),
    )
    fields.refuse_unknown()
    if tile_of_entry(entry.kernel) is None:
        raise ArtifactError(f"{where}: no kernel here has the tile of {entry.kernel!r}")
    return entry
