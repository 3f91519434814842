"""Kernels that TensorRT-RTX compiles when it loads a plan, kept for the next time.

Without them every start compiles all kernels of the plan again. TensorRT-RTX itself refuses kept
kernels of another version, driver or GPU; then they are made anew and replace the old ones.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from vq4dit.atomic_file import atomic_path

_log = logging.getLogger(__name__)


class KernelCache:
    """The kept kernels of one plan.

    Args:
        path: file that keeps them; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache: Any = None
        self._kept = b""

    def create_context(self, engine: Any) -> Any:
        """An execution context that takes kept kernels where they fit; None if it has no memory."""
        config = engine.create_runtime_config()
        self._cache = config.create_runtime_cache()
        if self._path.is_file():
            self._kept = self._path.read_bytes()
            if not self._cache.deserialize(self._kept):
                _log.info("%s: kernels of another version or GPU; compiling anew", self._path)
                self._kept = b""
        config.set_runtime_cache(self._cache)
        return engine.create_execution_context(config)

    def save(self) -> None:
        """Keep what was compiled since; a folder that cannot be written is told, not raised."""
        if self._cache is None:
            return
        blob = bytes(self._cache.serialize())
        self._cache = None
        if blob == self._kept:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._path) as temporary:
                temporary.write_bytes(blob)
        except OSError as error:
            _log.warning("%s: compiled kernels are not kept (%s)", self._path, error)
