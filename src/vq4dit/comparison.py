"""The picture of a comparison: a row per engine, a column per class, equal seeds in a column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_TILE_SIZE = 96  # pixels of a tile at least; small pictures are enlarged by a whole factor
_GAP = 6
_MARGIN = 8
_TEXT_SIZE = 16
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)


def comparison_picture(
    rows: Sequence[tuple[str, NDArray[np.uint8]]], column_names: Sequence[str]
) -> NDArray[np.uint8]:
    """Draw labelled rows of pictures.

    Args:
        rows: (name, pictures (columns, H, W, C) uint8 with C 1 or 3).
        column_names: one text per column.
    Returns:
        (height, width, 3) uint8.
    """
    font = ImageFont.load_default(_TEXT_SIZE)
    tile = _tile_size(rows[0][1].shape[1:3])
    left = 2 * _MARGIN + max(int(font.getlength(name)) for name, _ in rows)
    top = 2 * _MARGIN + _TEXT_SIZE
    width = left + len(column_names) * (tile[0] + _GAP) + _MARGIN
    height = top + len(rows) * (tile[1] + _GAP) + _MARGIN
    sheet = Image.new("RGB", (width, height), _WHITE)
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(column_names):
        x = left + column * (tile[0] + _GAP)
        draw.text((x, _MARGIN), _fitting(name, font, tile[0]), fill=_BLACK, font=font)
    for row, (name, pictures) in enumerate(rows):
        y = top + row * (tile[1] + _GAP)
        draw.text((_MARGIN, y + (tile[1] - _TEXT_SIZE) // 2), name, fill=_BLACK, font=font)
        for column, picture in enumerate(pictures):
            enlarged = _image(picture).resize(tile, Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left + column * (tile[0] + _GAP), y))
    return np.asarray(sheet)


def _tile_size(picture: tuple[int, ...]) -> tuple[int, int]:
    """(width, height) of a tile: the picture (H, W) enlarged to at least _TILE_SIZE."""
    factor = max(1, -(-_TILE_SIZE // max(picture)))
    return picture[1] * factor, picture[0] * factor


def _image(picture: NDArray[np.uint8]) -> Image.Image:
    """(H, W, 1 or 3) -> an RGB image."""
    grey = picture.shape[2] == 1
    return Image.fromarray(picture[:, :, 0] if grey else picture).convert("RGB")


def _fitting(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut so that it is not wider than `width` pixels."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
