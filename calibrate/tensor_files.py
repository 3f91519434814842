"""Open a file of tensors by its header and read each tensor when it is needed.

Takes safetensors and torch files; of the latter nothing but tensors is ever unpickled. Knows
nothing of the model that the tensors belong to.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from vq4dit.errors import ArtifactError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor by what its file's header tells; `read` fetches the values."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class CheckpointContents:
    """What a checkpoint holds before it is checked against a model.

    `tensors` have the names of the facebookresearch layout; `metadata` is the text metadata of a
    safetensors file, or what a folder tells under the same keys (config, class_names,
    scaling_factor); `files` are all files that it was read from.
    """

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    files: tuple[Path, ...]


def open_tensor_file(path: Path) -> CheckpointContents:
    """Open one file of tensors under the names that it has.

    Args:
        path: `.safetensors`, or anything else for a torch file.
    Raises:
        ArtifactError: missing or truncated file, or a torch file with other things than tensors.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    tensors = {str(name): _held(value) for name, value in _load_torch(path).items()}
    return CheckpointContents(tensors=tensors, metadata={}, files=(path,))


def _held(tensor: torch.Tensor) -> StoredTensor:
    """A tensor of a torch file, which is mapped already."""
    return StoredTensor(shape=tuple(tensor.shape), dtype=tensor.dtype, read=lambda: tensor)


def _open_safetensors(path: Path) -> CheckpointContents:
    """Names, shapes and dtypes from the header, which also tells whether the file is whole."""
    try:
        file: Any = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path}: not a whole safetensors file ({error}); copy or download it again"
        ) from None
    tensors = {name: _stored(path, file, name) for name in file.keys()}
    return CheckpointContents(tensors=tensors, metadata=dict(file.metadata() or {}), files=(path,))


def _stored(path: Path, file: Any, name: str) -> StoredTensor:
    """One tensor of an open safetensors file; keeps the file open."""
    header = file.get_slice(name)
    if header.get_dtype() not in _DTYPES:
        raise ArtifactError(
            f"{path}: {name} is stored as {header.get_dtype()}, needed floating point "
            "(F32, F16 or BF16)"
        )
    return StoredTensor(
        shape=tuple(header.get_shape()),
        dtype=_DTYPES[header.get_dtype()],
        read=lambda: file.get_tensor(name),
    )


def _load_torch(path: Path) -> Mapping[str, torch.Tensor]:
    """A torch file's state dict, mapped from disk where its format allows."""
    try:
        loaded = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(
            f"{path}: torch cannot read it as plain tensors ({reason}); "
            "needed a state dict saved by torch.save, whole and without other objects"
        ) from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("ema"), Mapping):
        loaded = loaded["ema"]
    if not isinstance(loaded, Mapping):
        raise ArtifactError(f"{path}: holds a {type(loaded).__name__}, needed a state dict")
    foreign = [str(k) for k, v in loaded.items() if not isinstance(v, torch.Tensor)]
    if foreign:
        raise ArtifactError(
            f"{path}: entries {foreign[:3]} are no tensors; needed a flat state dict or one "
            'under the key "ema"'
        )
    return loaded
