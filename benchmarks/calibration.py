"""How good is each way to quantize? The ablation study of calibration on the demonstration model.

`python benchmarks/calibration.py` runs the rows that results/calibration.json does not have yet,
writes that file after each, and at the end renders the table in RESULTS.md. It can be stopped at
any time and goes on where it was. `--list` tells rows and estimates, `--rows 'vq4dit-2bit*'` chooses
some, `--limit-seconds 1800` stops before a row that would take longer, `--report` renders only.

Every calibration runs in a process of its own, whose memory is measured. All models draw the same
labels and noise (DDIM, cfg 2) with the CPU engine; the full-precision model's latents are drawn once
per number of pictures and steps. A row that failed is kept with its "error"; `--again` runs rows
once more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from calibration_plan import (
    FULL_PRECISION,
    ROUNDING,
    Row,
    calibration_settings,
    full_precision_row,
    hash_code,
    hash_settings,
    plan,
)
from calibration_report import render, replace_section
from calibration_worker import calibrate_in_subprocess
from cpu_gemm import machine
from round_to_nearest import RoundedWeights, bits_per_weight

from vq4dit import demo
from vq4dit.accounting import size_from_weights
from vq4dit.atomic_file import atomic_path
from vq4dit.calibrate.source import open_weights
from vq4dit.engines.build import build_engine
from vq4dit.engines.manifest import load_manifest
from vq4dit.errors import Vq4ditError
from vq4dit.evaluation import (
    EvaluationSettings,
    Metrics,
    Samples,
    balanced_labels,
    draw,
    measure,
    metric_classifier,
)
from vq4dit.json_file import write_json
from vq4dit.weight_source import WeightSource

_FOLDER = Path(__file__).resolve().parent
_PACKAGES = ("vq4dit", "torch", "numpy", "onnxruntime")


def main(argv: list[str] | None = None) -> None:
    """Run, list or report."""
    args = _arguments(argv)
    study = Study(args)
    rows = [row for row in plan(args.steps) if any(fnmatch(row.name, p) for p in args.rows)]
    if args.list:
        print("\n".join(study.describe(row) for row in rows))
        return
    if not args.report:
        study.run(rows, args.limit_seconds)
    if study.rows:
        replace_section(args.markdown, "calibration", render(study.document()))


class Study:
    """The results so far, and how to add a row to them."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Open the results of earlier runs."""
        self._args = args
        self._code = hash_code()
        self._source = open_weights(args.checkpoint)
        self._references: dict[int, Samples] = {}
        self.rows: list[dict[str, Any]] = []
        self._machine: dict[str, Any] = {}
        if args.output.is_file():
            document = json.loads(args.output.read_text(encoding="utf-8"))
            self.rows, self._machine = document["rows"], document["machine"]

    def document(self) -> dict[str, Any]:
        """What the results file holds."""
        return {"machine": self._machine, "rows": self.rows}

    def run(self, rows: list[Row], limit_seconds: float | None) -> None:
        """Do all rows that are missing, full precision first, within the time."""
        start = time.monotonic()
        for row in rows:
            if self._is_done(row) and not self._args.again:
                continue
            seconds = time.monotonic() - start + self.estimate(row)
            if limit_seconds is not None and seconds > limit_seconds:
                print(f"{row.name}: would end after {seconds:.0f} s, left for the next run")
                return
            self._add(row, self._result(row))

    def describe(self, row: Row) -> str:
        """A line of `--list`."""
        found = self._find(row)
        state = "to do"
        if found is not None and self._is_done(row):
            state = "failed" if "error" in found else "done"
            state += "" if found["code"] == self._code else ", by other code"
        return f"{row.name:<36}{state:<24}{self.estimate(row):>8.0f} s"

    def estimate(self, row: Row) -> float:
        """Seconds that a row takes, judged by earlier rows; 0 where nothing is known."""
        good = [found for found in self.rows if "error" not in found]
        drawing = [r["evaluation_seconds"] / (r["num_images"] * r["steps"]) for r in good]
        seconds = max(drawing, default=0.0) * self._args.num_images * row.steps
        if row.recipe != FULL_PRECISION and not self._has_latents(row.steps):
            seconds *= 2
        if row.is_calibrated and not self._artifact(row).is_file():
            alike = [r["seconds"] for r in good if r["recipe"] == row.recipe]
            seconds += max(alike or [r["seconds"] for r in good], default=0.0)
        return seconds

    def _find(self, row: Row) -> dict[str, Any] | None:
        """The result of a row with as many pictures, whatever its settings were."""
        key = (row.name, self._args.num_images)
        return next((r for r in self.rows if (r["name"], r["num_images"]) == key), None)

    def _is_done(self, row: Row) -> bool:
        """Whether the row stands there with the present settings."""
        found = self._find(row)
        if row.recipe == FULL_PRECISION and not self._has_latents(row.steps):
            return False
        return found is not None and found["settings"] == self._settings(row)

    def _settings(self, row: Row) -> str:
        """Hash of everything that the row's numbers follow from, the code apart."""
        args = self._args
        settings = calibration_settings(row, self._source.sha256, args.threads)
        return hash_settings({**settings, "steps": row.steps, "num_images": args.num_images})

    def _add(self, row: Row, values: dict[str, Any]) -> None:
        """Put a result in the place of an earlier one, or behind the last; write the file."""
        earlier = self._find(row)
        self._machine = study_machine()
        result = {
            "name": row.name,
            "settings": self._settings(row),
            "code": self._code,
            "recipe": row.recipe,
            "bits": row.bits,
            "candidates": row.candidates,
            "seed": row.seed,
            "steps": row.steps,
            "num_images": self._args.num_images,
            "threads": self._args.threads,
            "processor": self._machine["processor"],
            **values,
        }
        if earlier is None:
            self.rows.append(result)
        else:
            self.rows[self.rows.index(earlier)] = result
        self._args.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._args.output, self.document())
        print(_progress_line(result), flush=True)

    def _result(self, row: Row) -> dict[str, Any]:
        """Numbers of a row, or {"error": why not}."""
        try:
            self._args.work.mkdir(parents=True, exist_ok=True)
            if row.recipe == FULL_PRECISION:
                return self._full_precision(row)
            reference = self._reference(row.steps)
            if row.recipe == ROUNDING:
                rounded = RoundedWeights(self._source, row.bits)
                values = {"bits_per_weight": bits_per_weight(row.bits), **_NO_CALIBRATION}
                return values | self._evaluate(row, rounded, reference)
            values = self._calibrate(row)
            artifact = open_weights(self._artifact(row))
            values["bits_per_weight"] = size_from_weights(artifact).bits_per_weight
            return values | self._evaluate(row, artifact, reference)
        except (Vq4ditError, OSError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _full_precision(self, row: Row) -> dict[str, Any]:
        """Draw with the checkpoint as it is and keep the latents."""
        samples, classify = self._draw(row, self._source)
        with atomic_path(self._latents(row.steps)) as temporary, open(temporary, "wb") as file:
            np.savez(file, latents=samples.latents)
        labels = balanced_labels(self._args.num_images, self._source.config.num_classes)
        metrics = measure(samples, samples, labels, classify)
        values = {"bits_per_weight": float(row.bits), **_NO_CALIBRATION}
        return values | _row_metrics(metrics, metrics, samples.seconds)

    def _reference(self, steps: int) -> tuple[Samples, dict[str, Any]]:
        """Latents and result of full precision, drawn now if they are missing."""
        row = full_precision_row(steps)
        if not self._is_done(row):
            self._add(row, self._full_precision(row))
        with np.load(self._latents(steps)) as stored:
            samples = Samples(latents=stored["latents"], pictures=None, seconds=0.0)
        found = self._find(row)
        if found is None or "error" in found:
            raise Vq4ditError(f"{row.name} failed, nothing to compare with; run it with --again")
        return samples, found

    def _evaluate(
        self, row: Row, weights: WeightSource, reference: tuple[Samples, dict[str, Any]]
    ) -> dict[str, Any]:
        """Draw with a quantized model and compare with full precision."""
        samples, classify = self._draw(row, weights)
        labels = balanced_labels(self._args.num_images, self._source.config.num_classes)
        metrics = measure(samples, reference[0], labels, classify)
        return _row_metrics(metrics, reference[1], samples.seconds)
