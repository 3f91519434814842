"""Label names from a text file: one per line, class 0 first."""

from __future__ import annotations

from pathlib import Path

from .errors import ArtifactError

_MAX_BYTES = 4 << 20


def read_label_names(path: Path) -> tuple[str, ...]:
    """Read the names in the order of the labels; ArtifactError if it is no such file."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ArtifactError(f"{path}: is larger than {_MAX_BYTES} bytes; not label names")
        return tuple(path.read_text("utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: is not UTF-8 text: {error}") from None
