"""Reads Fashion-MNIST: four gzipped idx files, as Debian's package dataset-fashion-mnist has them.

Source of the format: the idx description at the end of LeCun's MNIST page: big-endian magic
(0, 0, 8 = unsigned byte, rank), one 32-bit size per axis, then the bytes.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vq4dit.errors import ArtifactError

_PREFIX = {"train": "train", "test": "t10k"}


def load_split(folder: Path, split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """Read one split: pictures (N, 1, 28, 28) uint8 and labels (N,) int64.

    Raises:
        ArtifactError: a file is damaged, or the two do not belong together.   OSError: none there.
    """
    prefix = _PREFIX[split]
    pictures = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", rank=3)
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", rank=1)
    if len(pictures) != len(labels):
        raise ArtifactError(f"{folder}: {len(pictures)} {split} pictures but {len(labels)} labels")
    return torch.from_numpy(pictures[:, None].copy()), torch.from_numpy(labels.astype(np.int64))


def read_idx(path: Path, *, rank: int) -> NDArray[np.uint8]:
    """Read a gzipped idx file of unsigned bytes with `rank` axes."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ArtifactError(f"{path}: not a whole gzip file ({error}); fetch it again") from None
    magic = bytes([0, 0, 8, rank])
    header = 4 + 4 * rank
    if len(content) < header or content[:4] != magic:
        raise ArtifactError(
            f"{path}: starts with {content[:4].hex()}, needed {magic.hex()} "
            f"(idx, bytes, rank {rank})"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", rank, 4))
    needed = header + int(np.prod(shape, dtype=np.int64))
    if len(content) != needed:
        raise ArtifactError(f"{path}: holds {len(content)} bytes, needed {needed} for {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def to_range(pictures: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def pad(pictures: Tensor) -> Tensor:
    """(N, 1, 28, 28) uint8 -> (N, 1, 32, 32) float32 in [-1, 1], with a black border."""
    return F.pad(to_range(pictures), (2, 2, 2, 2), value=-1.0)
