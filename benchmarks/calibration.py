"""How good is each way to quantize? The ablation study of calibration on the demonstration model.

`python benchmarks/calibration.py` runs the rows that results/calibration.json does not have yet,
writes that file after each, and at the end renders the table in RESULTS.md. It can be stopped at
any time and goes on where it was. `--list` tells the rows and estimates, `--rows 'vq4dit-2bit*'`
chooses some, `--limit-seconds 1800` stops before a row that would take longer, `--report` renders
only. A row that failed is kept with its "error"; `--again` runs the chosen rows once more.

Every calibration runs in a process of its own, whose memory is measured. All models draw the same
labels and noise with the CPU engine; full precision is drawn once per number of steps.
"""

from __future__ import annotations

import argparse
import os
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from calibration_study.models import Models
from calibration_study.plan import FULL_PRECISION, Row, full_precision_row, plan
from calibration_study.report import render, replace_section
from calibration_study.results import Results

from vq4dit import demo
from vq4dit.errors import Vq4ditError

_FOLDER = Path(__file__).resolve().parent
_SECTION = "calibration"


def main(argv: list[str] | None = None) -> None:
    """Run, list or report."""
    args = _arguments(argv)
    results = Results(args.output)
    if not args.report:
        models = Models(
            args.checkpoint, args.work, num_images=args.num_images, threads=args.threads
        )
        rows = [row for row in plan(args.steps) if any(fnmatch(row.name, p) for p in args.rows)]
        if args.list:
            print("\n".join(_listed(row, models, results) for row in rows))
            return
        run(rows, models, results, again=args.again, limit_seconds=args.limit_seconds)
    if results.rows:
        replace_section(args.markdown, _SECTION, render(results.document()))


def run(
    rows: list[Row],
    models: Models,
    results: Results,
    *,
    again: bool = False,
    limit_seconds: float | None = None,
) -> None:
    """Do the rows that do not stand yet; stop before one that would end after the limit."""
    start = time.monotonic()
    if again:
        for row in rows:
            models.forget(row)
    for row in rows:
        if results.find(row, models) is not None and not again:
            continue
        end = time.monotonic() - start + results.estimate(row, models)
        if limit_seconds is not None and end > limit_seconds:
            print(f"{row.name}: would end after {end:.0f} s, left for the next run")
            return
        print(_progress_line(results.add(row, models, _numbers(row, models, results))), flush=True)


def _numbers(row: Row, models: Models, results: Results) -> dict[str, Any]:
    """A row's numbers, or its error; full precision is drawn before, where it is missing."""
    try:
        if row.recipe == FULL_PRECISION:
            return models.numbers(row, None)
        reference_row = full_precision_row(row.steps)
        reference = results.find(reference_row, models)
        if reference is None or "error" in reference or not models.has_latents(row.steps):
            reference = results.add(reference_row, models, models.numbers(reference_row, None))
        return models.numbers(row, reference)
    except (Vq4ditError, OSError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _listed(row: Row, models: Models, results: Results) -> str:
    """A line of --list: name, state, seconds."""
    found = results.find(row, models)
    state = "to do" if found is None else "failed" if "error" in found else "done"
    if found is not None and found["code"] != models.code:
        state += ", by other code"
    seconds = 0.0 if found is not None else results.estimate(row, models)
    return f"{row.name:<36}{state:<22}{seconds:>8.0f} s"


def _progress_line(row: dict[str, Any]) -> str:
    """What a finished row tells."""
    if "error" in row:
        return f"{row['name']:<36}{row['error']}"
    ratio = "-" if row["frechet_ratio"] is None else f"{row['frechet_ratio']:.3f}"
    return (
        f"{row['name']:<36}Fréchet {ratio} x FP, latent error {row['relative_latent_error']:.4f}, "
        f"diversity {row['diversity']:.3f}, calibrated in {row['seconds']:.0f} s, "
        f"drawn in {row['evaluation_seconds']:.0f} s"
    )


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--num-images", type=int, default=2000, help="pictures per model")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[20, 50],
        help="DDIM steps: all rows with the first number, the main rows with the others too",
    )  # fmt: skip
    parser.add_argument("--rows", nargs="+", default=["*"], help="patterns of row names")
    parser.add_argument("--list", action="store_true", help="tell the rows, run nothing")
    parser.add_argument("--report", action="store_true", help="render the table, run nothing")
    parser.add_argument("--again", action="store_true", help="run rows that stand there, too")
    parser.add_argument(
        "--limit-seconds", type=float, default=None, help="start no row that would end later"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of all work")
    parser.add_argument(
        "--checkpoint", type=Path, default=demo.checkpoint_path(), help="full-precision model"
    )
    parser.add_argument(
        "--output", type=Path, default=_FOLDER / "results" / "calibration.json", help="results"
    )
    parser.add_argument(
        "--markdown", type=Path, default=_FOLDER / "RESULTS.md", help="where the table goes"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("out/calibration-study"), help="artifacts, latents"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
