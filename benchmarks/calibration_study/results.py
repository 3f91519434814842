"""results/calibration.json: rows that stand, rows to come, and how long they may take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from machine import machine

from vq4dit.json_file import write_json

from .models import Models
from .plan import FULL_PRECISION, Row

_PACKAGES = ("vq4dit", "torch", "numpy", "onnxruntime")


class Results:
    """The results file. A row stands for a name and number of pictures, with a settings hash."""

    def __init__(self, path: Path) -> None:
        """Read the rows of earlier runs."""
        self._path = path
        self.rows: list[dict[str, Any]] = []
        self._machine: dict[str, Any] = {}
        if path.is_file():
            document = json.loads(path.read_text(encoding="utf-8"))
            self.rows, self._machine = document["rows"], document["machine"]

    def document(self) -> dict[str, Any]:
        """What the file holds."""
        return {"machine": self._machine, "rows": self.rows}

    def find(self, row: Row, models: Models) -> dict[str, Any] | None:
        """The result of a row, if it was made with the present settings."""
        found = self._earlier(row, models.num_images)
        return found if found and found["settings"] == models.settings(row) else None

    def add(self, row: Row, models: Models, numbers: dict[str, Any]) -> dict[str, Any]:
        """Put a result in the place of an earlier one, or last, and write the file."""
        earlier = self._earlier(row, models.num_images)
        self._machine = study_machine()
        result = {
            "name": row.name,
            "settings": models.settings(row),
            "code": models.code,
            "recipe": row.recipe,
            "bits": row.bits,
            "candidates": row.candidates,
            "seed": row.seed,
            "steps": row.steps,
            "num_images": models.num_images,
            "processor": self._machine["processor"],
            **numbers,
        }
        if earlier is None:
            self.rows.append(result)
        else:
            self.rows[self.rows.index(earlier)] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self.document())
        return result

    def estimate(self, row: Row, models: Models) -> float:
        """Seconds that a row takes, judged by those that stand; 0 where none does."""
        good = [found for found in self.rows if "error" not in found]
        drawing = [r["evaluation_seconds"] / (r["num_images"] * r["steps"]) for r in good]
        seconds = max(drawing, default=0.0) * models.num_images * row.steps
        if row.recipe != FULL_PRECISION and not models.has_latents(row.steps):
            seconds *= 2
        if row.is_calibrated and not models.has_artifact(row):
            calibrated = [r for r in good if r["seconds"]]
            alike = [r for r in calibrated if r["recipe"] == row.recipe]
            seconds += max((r["seconds"] for r in alike or calibrated), default=0.0)
        return seconds

    def _earlier(self, row: Row, num_images: int) -> dict[str, Any] | None:
        """The row of this name and number of pictures, whatever its settings."""
        key = (row.name, num_images)
        return next((r for r in self.rows if (r["name"], r["num_images"]) == key), None)


def study_machine() -> dict[str, Any]:
    """Processor and versions of what did the work."""
    return machine(_PACKAGES)
