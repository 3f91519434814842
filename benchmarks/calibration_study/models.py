"""Makes the models of the study and draws with them: a row in, its numbers out."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vq4dit import demo
from vq4dit.accounting import size_from_weights
from vq4dit.calibrate.source import open_weights
from vq4dit.errors import ArtifactError, Vq4ditError
from vq4dit.evaluation import (
    EvaluationSettings,
    Metrics,
    Samples,
    balanced_labels,
    measure,
)
from vq4dit.weight_source import WeightSource

from .drawing import draw_with, save_latents
from .plan import (
    FULL_PRECISION,
    ROUNDING,
    Row,
    calibration_settings,
    hash_code,
    hash_settings,
)
from .round_to_nearest import RoundedWeights, bits_per_weight
from .worker import calibrate_in_subprocess

#: Keys of a calibration, for rows that have none.
_NO_CALIBRATION = {"seconds": 0.0, "seconds_by_stage": {}, "cpu_seconds": 0.0, "peak_rss_bytes": 0}


class Models:
    """The models of one checkpoint, drawn with one number of pictures and threads.

    Artifacts and latents of full precision stay in the folder `work` for later rows; an artifact is
    made anew when the calibration's code changes.
    """

    def __init__(self, checkpoint: Path, work: Path, *, num_images: int, threads: int) -> None:
        self._checkpoint, self._work = checkpoint, work
        self._source = open_weights(checkpoint)
        self._threads = threads
        self._labels = balanced_labels(num_images, self._source.config.num_classes)
        self.num_images, self.code = num_images, hash_code()
        work.mkdir(parents=True, exist_ok=True)

    def settings(self, row: Row) -> str:
        """Hash of everything that the row's numbers follow from, the code apart."""
        values = self._calibration_settings(row)
        return hash_settings({**values, "steps": row.steps, "num_images": self.num_images})

    def has_artifact(self, row: Row) -> bool:
        """Whether the row's calibration is done already, by the present code."""
        return self._artifact(row).is_file()

    def has_latents(self, steps: int) -> bool:
        """Whether full precision has been drawn with so many steps."""
        return self._latents(steps).is_file()

    def forget(self, row: Row) -> None:
        """Remove what earlier rows left, so that it is made again."""
        if row.is_calibrated:
            self._artifact(row).unlink(missing_ok=True)

    def numbers(self, row: Row, full_precision: dict[str, Any] | None) -> dict[str, Any]:
        """Quantize, build, draw and measure.

        Args:
            row: what.
            full_precision: the numbers of full precision with as many steps; None for itself.
        Raises:
            Vq4ditError, OSError, ValueError: any of it failed.
        """
        if row.recipe == FULL_PRECISION:
            values = {"bits_per_weight": float(row.bits), **_NO_CALIBRATION}
            weights = self._source
        elif row.recipe == ROUNDING:
            values = {"bits_per_weight": bits_per_weight(row.bits), **_NO_CALIBRATION}
            weights = RoundedWeights(self._source, row.bits)
        else:
            values = self._calibrate(row)
            weights = open_weights(self._artifact(row))
            values["bits_per_weight"] = size_from_weights(weights).bits_per_weight
        metrics, seconds = self._evaluate(row, weights)
        measured = asdict(metrics)
        bad = [name for name, x in measured.items() if x is not None and not math.isfinite(x)]
        if bad:
            raise Vq4ditError(f"the samples have no finite {', '.join(bad)}")
        return {
            "frechet_distance": measured.pop("frechet_distance"),
            "frechet_ratio": _ratio(metrics, full_precision),
            **measured,
            **values,
            "evaluation_seconds": round(seconds, 1),
        }

    def _calibrate(self, row: Row) -> dict[str, Any]:
        """Make the row's artifact; its seconds and memory."""
        summary = calibrate_in_subprocess(
            self._checkpoint, self._artifact(row), self._calibration_settings(row)
        )
        return {
            "seconds": summary["wall_seconds"],
            "seconds_by_stage": summary["seconds"],
            "cpu_seconds": summary["cpu_seconds"],
            "peak_rss_bytes": summary["peak_rss_bytes"],
        }

    def _evaluate(self, row: Row, weights: WeightSource) -> tuple[Metrics, float]:
        """Build the engine, draw, compare; metrics and seconds of drawing."""
        engine = self._work / f"{row.name}.engine"
        settings = EvaluationSettings(
            num_images=self.num_images, steps=row.steps, threads=self._threads
        )
        samples, classify = draw_with(weights, engine, self._labels, settings, vae=demo.vae_path())
        if row.recipe == FULL_PRECISION:
            save_latents(self._latents(row.steps), samples)
            reference = samples
        else:
            reference = self._reference(row.steps)
        return measure(samples, reference, self._labels, classify), samples.seconds

    def _reference(self, steps: int) -> Samples:
        """What full precision drew."""
        path = self._latents(steps)
        latents = np.load(path)
        if len(latents) != self.num_images:
            raise ArtifactError(f"{path}: {len(latents)} latents, needed {self.num_images}")
        return Samples(latents=latents, pictures=None, seconds=0.0)

    def _calibration_settings(self, row: Row) -> dict[str, Any]:
        return calibration_settings(row, self._source.sha256, self._threads)

    def _artifact(self, row: Row) -> Path:
        settings = {**self._calibration_settings(row), "code": self.code}
        return self._work / f"{hash_settings(settings)}.vq.safetensors"

    def _latents(self, steps: int) -> Path:
        settings = [self._source.sha256, self._threads, self.num_images, steps]
        return self._work / f"fp-{hash_settings({'of': settings})}.npy"


def _ratio(metrics: Metrics, full_precision: dict[str, Any] | None) -> float | None:
    """Fréchet distance over full precision's, 1 for itself; None where there is none."""
    if metrics.frechet_distance is None:
        return None
    if full_precision is None:
        return 1.0
    return metrics.frechet_distance / full_precision["frechet_distance"]
