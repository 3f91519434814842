"""What a person sees of a finished calibration: a table of 80 columns, a picture, its numbers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OptionError

if TYPE_CHECKING:
    from ..calibrate.summary import CalibrationSummary

#: Steps whose mean is told as the final loss of the distillation; one batch alone jumps.
_FINAL_STEPS = 10


def add_report_argument(parser: argparse.ArgumentParser) -> None:
    """The option --report."""
    parser.add_argument(
        "--report",
        type=Path,
        default=None,
        metavar="FILE.png",
        help="draw the curves here, and write the summary beside it as FILE.json",
    )


def check_report_path(path: Path) -> None:
    """Refuse, before hours of work, a report that cannot be written at their end.

    Raises:
        OptionError: not a .png, or no such folder.   BackendUnavailable: matplotlib is missing.
    """
    from ..calibrate.report import require_matplotlib

    if path.suffix != ".png":
        raise OptionError(f"{path}: the report is a picture; name it FILE.png")
    if not path.parent.is_dir():
        raise OptionError(f"{path}: the folder {path.parent} does not exist; create it first")
    require_matplotlib()


def write_report_files(path: Path, summary: CalibrationSummary) -> dict[str, str]:
    """Write FILE.png and FILE.json; returns their paths by what they are."""
    from ..calibrate.report import write_report
    from ..json_file import write_json

    write_report(path, summary)
    numbers = path.with_suffix(".json")
    write_json(numbers, summary.to_dict())
    return {"report": str(path), "report_json": str(numbers)}


def summary_table(summary: CalibrationSummary) -> list[str]:
    """Lines of at most 80 columns: errors and sizes by kind of linear, loss, seconds, memory."""
    from ..calibrate.layer_kinds import totals_by_kind

    lines = [
        f"{'':<12}{'layers':>8}{'weight error':>16}{'bits/weight':>14}{'bytes':>14}",
        f"{'':<12}{'':>8}{'|W-Wq|²/|W|²':>16}{'+ codebooks':>14}{'':>14}",
    ]
    lines += [
        f"{total.kind[:11]:<12}{total.num_layers:>8}{total.weight_error:>16.4f}"
        f"{total.bits_per_weight:>14.3f}{total.num_bytes:>14,}"
        for total in totals_by_kind(summary)
    ]
    if summary.distill:
        last = summary.distill[-_FINAL_STEPS:]
        lines.append(
            f"distillation: relative output error {sum(last) / len(last):.4f} "
            f"(mean of the last {len(last)} steps)"
        )
    if summary.allocation is not None:
        bits, error = (summary.allocation[key] for key in ("bits_per_weight", "predicted_error"))
        lines.append(f"allocated: {bits:.3f} bits per weight in all, predicted error {error:.2g}")
    lines += [f"{stage:<16}{seconds:>8.1f} s" for stage, seconds in summary.seconds.items()]
    lines.append(f"{'peak memory':<16}{summary.peak_rss_bytes / 2**20:>8.0f} MiB")
    return lines
