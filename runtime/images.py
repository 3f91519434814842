"""Pictures: from the decoder's floats to bytes, grids and PNG files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.atomic_file import atomic_path
from vq4dit.errors import OptionError, Vq4ditError

if TYPE_CHECKING:
    from PIL.Image import Image

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


def pil_from_images(images: NDArray[np.uint8]) -> list[Image]:
    """(N, H, W, C) uint8 to N PIL images, grey or RGB."""
    from PIL.Image import fromarray

    return [fromarray(image[:, :, 0] if image.shape[2] == 1 else image) for image in images]


def save_png(path: str | Path, image: NDArray[np.uint8], text: Mapping[str, Any]) -> None:
    """Write (H, W, C) uint8 as PNG with text, whole or not at all.

    The text goes into tEXt chunks, or iTXt where it is not Latin-1; `PIL.Image.open(path).text`
    gives it back.

    Raises:
        OSError: the disk does not take it; nothing is left.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, str(value))
    (picture,) = pil_from_images(image[None])
    try:
        with atomic_path(Path(path)) as temporary:
            picture.save(temporary, format="PNG", pnginfo=info)
    except OSError as error:
        raise OSError(f"{path}: could not be written ({error}); nothing of it was left") from error


def save_grid(
    path: str | Path,
    images: NDArray[np.uint8],
    text: Mapping[str, Any],
    *,
    columns: int | None = None,
) -> None:
    """Write (N, H, W, C) uint8 as one PNG with text; layout as `grid_from_images`."""
    save_png(path, grid_from_images(images, columns), text)


def save_images(
    path: str | Path, images: NDArray[np.uint8], texts: Sequence[Mapping[str, Any]]
) -> list[Path]:
    """Write (N, H, W, C) uint8 as NAME-0000.png, NAME-0001.png, ... with a text for each.

    Args:
        path: NAME.png.
        images: the pictures.
        texts: N texts, such as those of `Pipeline.describe` for one label and sample each.
    Returns:
        The N paths.
    Raises:
        OSError: the disk does not take a file; those before it are there, nothing of it is.
    """
    path = Path(path)
    digits = max(4, len(str(len(images) - 1)))
    paths = [path.with_name(f"{path.stem}-{i:0{digits}}.png") for i in range(len(images))]
    for own_path, image, text in zip(paths, images, texts, strict=True):
        save_png(own_path, image, text)
    return paths


def check_writable(path: Path) -> None:
    """Raise OptionError now if a file could not be written to this path after minutes of work."""
    parent = path.absolute().parent
    if path.is_dir():
        raise OptionError(f"{path}: is a folder, needed the name of a file")
    if not parent.is_dir():
        raise OptionError(f"{path}: the folder {parent} does not exist; make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OptionError(f"{path}: the folder {parent} is not writable; choose another output")
