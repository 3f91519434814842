"""Decode a large latent tile by tile, so that the decoder's memory is that of a tile.

Tiles overlap by at least a quarter of their size. Where they do, the pictures are blended with
weights that fall linearly to the tile's edge, so a blended pixel lies between the pixels of its
tiles; elsewhere it is the one tile's pixel. What a decoder computes over the whole latent
(attention, group statistics) it computes per tile here: a tiled picture is not that of the whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vq4dit.engines.manifest import Manifest
from vq4dit.errors import ArtifactError

from .session import DecoderSession, Floats

_OVERLAP_FRACTION = 4


class TiledDecoder:
    """A decoder of square latents made of one that decodes tiles; implements `DecoderSession`.

    Args:
        session: decodes (N, C, tile_size, tile_size).
        latent_size: H and W of whole latents, at least tile_size.
        tile_size: H and W of a tile.
    """

    def __init__(self, session: DecoderSession, *, latent_size: int, tile_size: int) -> None:
        self._session = session
        self._size, self._tile = latent_size, tile_size
        self._starts = tile_starts(latent_size, tile_size)

    def decode(self, latent: Floats) -> Floats:
        """Latents (N, C, h, w) to pictures (N, C, H, W) float32, about -1..1.

        Raises:
            ArtifactError: the decoder's pictures are no multiple of its tile in size.
        """
        part = self._decode_tile(latent, 0, 0)
        factor = self._factor(part)
        side = self._size * factor
        picture = np.zeros((*part.shape[:2], side, side), np.float32)
        weights = blend_weights(self._size, self._tile, factor)
        for i, y in enumerate(self._starts):
            for j, x in enumerate(self._starts):
                if i or j:
                    part = self._decode_tile(latent, y, x)
                rows = slice(y * factor, (y + self._tile) * factor)
                columns = slice(x * factor, (x + self._tile) * factor)
                picture[:, :, rows, columns] += part * (weights[i][:, None] * weights[j])
        return picture

    def _decode_tile(self, latent: Floats, y: int, x: int) -> Floats:
        tile = latent[:, :, y : y + self._tile, x : x + self._tile]
        return self._session.decode(np.ascontiguousarray(tile))

    def close(self) -> None:
        """Free what the session holds; a closed session cannot run."""
        self._session.close()

    def _factor(self, part: Floats) -> int:
        """Pixels of one latent element along a side."""
        factor, rest = divmod(int(part.shape[2]), self._tile)
        if rest or part.shape[2] != part.shape[3]:
            raise ArtifactError(
                f"the decoder makes pictures of {part.shape[2]} x {part.shape[3]} from tiles of "
                f"{self._tile} x {self._tile}, needed a whole multiple; build the engine again"
            )
        return factor


def with_tiles(session: DecoderSession, manifest: Manifest) -> DecoderSession:
    """The decoder of an engine: the session, or one that decodes by tiles where it was built so."""
    tile, size = manifest.decoder_tile, manifest.latent_shape[1]
    return session if tile is None else TiledDecoder(session, latent_size=size, tile_size=tile)


def tile_starts(latent_size: int, tile_size: int) -> list[int]:
    """Where tiles begin along one side: evenly spread, first at 0, last one at the far edge."""
    overlap = max(tile_size // _OVERLAP_FRACTION, 1) if tile_size > 1 else 0
    num_tiles = 1
    if latent_size > tile_size:
        num_tiles = -(-(latent_size - overlap) // (tile_size - overlap))
    return [int(n) for n in np.linspace(0, latent_size - tile_size, num_tiles).round()]


def blend_weights(latent_size: int, tile_size: int, factor: int) -> list[NDArray[np.float32]]:
    """For each tile along one side the weights of its pixels, (tile_size * factor,) float32.

    Over all tiles they add up to 1 at every pixel.
    """
    starts = tile_starts(latent_size, tile_size)
    side = tile_size * factor
    total = np.zeros(latent_size * factor)
    windows = []
    for k, start in enumerate(starts):
        window = np.ones(side)
        place = np.arange(side) + 0.5
        if k > 0:
            shared = (starts[k - 1] + tile_size - start) * factor
            window = np.minimum(window, place / max(shared, 1))
        if k + 1 < len(starts):
            shared = (start + tile_size - starts[k + 1]) * factor
            window = np.minimum(window, place[::-1] / max(shared, 1))
        windows.append(window)
        total[start * factor : start * factor + side] += window
    return [
        (window / total[start * factor : start * factor + side]).astype(np.float32)
        for start, window in zip(starts, windows, strict=True)
    ]
