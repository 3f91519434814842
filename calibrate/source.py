"""Open a file of weights, whatever it is: an artifact or a full-precision checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vq4dit.errors import ArtifactError, BackendUnavailable
from vq4dit.weight_source import WeightSource

from .artifact import Artifact, is_artifact

if TYPE_CHECKING:
    from .checkpoint import CheckpointOptions

#: File name endings that are read as full-precision checkpoints.
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def open_weights(path: str | Path, options: CheckpointOptions | None = None) -> WeightSource:
    """Open an artifact (needs no torch) or a checkpoint (needs torch).

    Args:
        path: `NAME.vq.safetensors`, or a checkpoint as `calibrate.checkpoint.Checkpoint` reads it.
        options: what the caller knows of a checkpoint; not used for artifacts.
    Raises:
        ArtifactError: missing, damaged or foreign file.
        BackendUnavailable: a checkpoint, but torch is not installed.
    """
    path = Path(path)
    if path.suffix not in CHECKPOINT_SUFFIXES or not path.is_file():
        found = "a folder" if path.is_dir() else "no such file" if not path.exists() else "a file"
        raise ArtifactError(
            f"{path}: {found}; needed an artifact (.vq.safetensors) or a checkpoint "
            f"({', '.join(CHECKPOINT_SUFFIXES)})"
        )
    if path.suffix == ".safetensors" and is_artifact(path):
        return Artifact(path)
    try:
        from .checkpoint import Checkpoint
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"reading the checkpoint {path} needs the module {error.name}; "
            "install it with: pip install 'vq4dit[calibrate]'"
        ) from None
    return Checkpoint(path, options)
