"""Safetensors files as NumPy arrays: opened whole or not at all, written atomically, hashed.

Knows nothing of what the tensors are, and needs no torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vq4dit.atomic_file import atomic_path
from vq4dit.errors import ArtifactError


def open_safetensors(path: Path) -> Any:
    """Open a safetensors file for NumPy; ArtifactError if it is missing, truncated or foreign."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path}: not a whole safetensors file ({error}); copy or make it again"
        ) from None


def write_safetensors(
    path: Path, tensors: dict[str, NDArray[Any]], metadata: dict[str, str]
) -> None:
    """Write a safetensors file atomically; ArtifactError when the disk does not take it."""
    path = Path(path)
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: could not be written ({error}); nothing was left") from error


def hash_tensor(tensor: NDArray[Any]) -> str:
    """SHA-256 of a tensor's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(tensor).data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
