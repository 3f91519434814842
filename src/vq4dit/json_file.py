"""Writes a JSON report whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .atomic_file import atomic_path


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write indented JSON to a temporary file beside `path`, fsync, then rename.

    Raises:
        OSError: the disk does not take it; nothing is left.   ValueError: a number is not finite.
    """
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
