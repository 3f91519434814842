"""Open weights, whatever they are: an artifact, a checkpoint file or a diffusers folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vq4dit.errors import ArtifactError, BackendUnavailable
from vq4dit.weight_source import WeightSource

from .artifact import Artifact, is_artifact

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, CheckpointOptions

#: File name endings that are read as full-precision checkpoints.
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def open_weights(path: str | Path, options: CheckpointOptions | None = None) -> WeightSource:
    """Open an artifact (needs no torch) or a checkpoint (needs torch).

    Args:
        path: `NAME.vq.safetensors`, or a checkpoint's file or folder as `open_checkpoint` takes it.
        options: what the caller knows of a checkpoint; not used for artifacts.
    Raises:
        ArtifactError: missing, damaged or foreign file.
        BackendUnavailable: a checkpoint, but torch is not installed.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and path.is_file() and is_artifact(path):
        return Artifact(path)
    return open_checkpoint(path, options)


def open_checkpoint(path: str | Path, options: CheckpointOptions | None = None) -> Checkpoint:
    """Open a full-precision checkpoint (needs torch).

    Args:
        path: `.pt`, `.pth`, `.bin` or `.safetensors` file in the facebookresearch layout, or the
            folder of a diffusers DiTTransformer2DModel or DiTPipeline.
        options: what the caller knows of it.
    Raises:
        ArtifactError: missing, damaged or foreign file or folder.
        OptionError: an option contradicts the file.
        BackendUnavailable: torch is not installed.
    """
    path = Path(path)
    if not path.is_dir() and (path.suffix not in CHECKPOINT_SUFFIXES or not path.is_file()):
        found = "no such file" if not path.exists() else "a file"
        raise ArtifactError(
            f"{path}: {found}; needed an artifact (.vq.safetensors), a checkpoint "
            f"({', '.join(CHECKPOINT_SUFFIXES)}) or a diffusers folder"
        )
    try:
        from .checkpoint import Checkpoint
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"reading the checkpoint {path} needs the module {error.name}; "
            "install it with: pip install 'vq4dit[calibrate]'"
        ) from None
    return Checkpoint(path, options)
