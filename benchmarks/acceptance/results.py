"""What the run has done so far, in one JSON file that is written after every step.

A run that is cut short goes on with the next step; a step that failed is tried again when asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vq4dit.errors import ArtifactError
from vq4dit.json_file import write_json

#: States of a step.
RAN, FAILED, MISSING, PREPARED = "ran", "failed", "needs", "prepared"


class Results:
    """The file; `machine` is told in it.

    Raises:
        ArtifactError: the file is of something else, or of another GPU.
    """

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        self._path = path
        self.document: dict[str, Any] = {"machine": machine, "steps": {}, "rows": []}
        if path.is_file():
            self.document = self._read() | {"machine": machine}

    def is_done(self, step: str) -> bool:
        """Whether the step ran to its end in this or an earlier run."""
        return self.document["steps"].get(step, {}).get("state") == RAN

    def has_failed(self, step: str) -> bool:
        """Whether the step failed when it was last tried."""
        return self.document["steps"].get(step, {}).get("state") == FAILED

    def put(
        self, step: str, state: str, *, reason: str = "", rows: list[dict[str, Any]] | None = None
    ) -> None:
        """Keep what came of a step, and write the file."""
        old = [row for row in self.document["rows"] if row["step"] != step]
        self.document["rows"] = old + [{"step": step, **row} for row in rows or []]
        self.document["steps"][step] = {"state": state} | ({"reason": reason} if reason else {})
        write_json(self._path, self.document)

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            gpu = document["machine"].get("gpu")
            is_ours = isinstance(document["steps"], dict) and isinstance(document["rows"], list)
        except (ValueError, KeyError, TypeError, AttributeError):
            is_ours = False
        if not is_ours:
            raise ArtifactError(
                f"{self._path}: not a file of this program; move it away, or give another --output"
            )
        here = self.document["machine"].get("gpu")
        if gpu not in (None, here):
            raise ArtifactError(
                f"{self._path}: has results of {gpu}, this machine has {here or 'no GPU'}; give "
                "another --output and another --work"
            )
        return document
