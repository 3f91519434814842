"""Pictures: from the decoder's floats to bytes, grids and PNG files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.atomic_file import atomic_path
from vq4dit.errors import OptionError, Vq4ditError

#: Channels that a PNG can hold: grey and RGB.
PICTURE_CHANNELS = (1, 3)

_GRID_GAP = 2
_WHITE = 255


def uint8_from_pictures(pictures: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Clip (N, C, H, W) float32 to -1..1 and round to bytes (N, H, W, C).

    Raises:
        Vq4ditError: a value is NaN or infinite.
    """
    if not np.isfinite(pictures).all():
        raise Vq4ditError(
            "the decoder gave NaN or infinite values; run `vq4dit verify` on the engine"
        )
    levels = ((np.clip(pictures, -1.0, 1.0) + 1.0) * 127.5).round().astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


def grid_from_images(images: NDArray[np.uint8], columns: int | None = None) -> NDArray[np.uint8]:
    """Lay (N, H, W, C) out row by row on white, (rows (H + 2) - 2, columns (W + 2) - 2, C).

    columns: None for about as many columns as rows.
    """
    num_images, height, width, channels = images.shape
    columns = min(columns or int(np.ceil(np.sqrt(num_images))), num_images)
    rows = -(-num_images // columns)
    padded = np.full((rows * columns, height + _GRID_GAP, width + _GRID_GAP, channels), _WHITE,
                     np.uint8)  # fmt: skip
    padded[:num_images, :height, :width] = images
    cells = padded.reshape(rows, columns, *padded.shape[1:]).transpose(0, 2, 1, 3, 4)
    grid = cells.reshape(rows * padded.shape[1], columns * padded.shape[2], channels)
    return np.ascontiguousarray(grid[:-_GRID_GAP, :-_GRID_GAP])


def save_png(path: Path, image: NDArray[np.uint8], text: Mapping[str, Any]) -> None:
    """Write (H, W, C) as PNG with text chunks, whole or not at all.

    Raises:
        OSError: the disk does not take it; nothing is left.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in text.items():
        info.add_itxt(key, str(value))
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    try:
        with atomic_path(path) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info)
    except OSError as error:
        raise OSError(f"{path}: could not be written ({error}); nothing of it was left") from error


def check_writable(path: Path) -> None:
    """Raise OptionError now if a file could not be written to this path after minutes of work."""
    parent = path.absolute().parent
    if path.is_dir():
        raise OptionError(f"{path}: is a folder, needed the name of a file")
    if not parent.is_dir():
        raise OptionError(f"{path}: the folder {parent} does not exist; make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OptionError(f"{path}: the folder {parent} is not writable; choose another output")
