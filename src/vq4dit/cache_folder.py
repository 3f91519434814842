"""Where things are kept that can be made again: plans, timings, compiled kernels."""

from __future__ import annotations

import os
from pathlib import Path

#: Environment variable that names another folder.
CACHE_VARIABLE = "VQ4DIT_CACHE"


def cache_folder() -> Path:
    """$VQ4DIT_CACHE, else $XDG_CACHE_HOME/vq4dit or ~/.cache/vq4dit; it need not exist."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vq4dit"
