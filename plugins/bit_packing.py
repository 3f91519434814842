"""Indices of 4, 6 or 8 bits as bytes, little-endian along the last axis.

    8 bits   byte i            = index i
    4 bits   byte i/2          = index i (low nibble) | index i+1 << 4
    6 bits   bytes 3(i/4)..+2  = index i | index i+1 << 6 | index i+2 << 12 | index i+3 << 18

Bytes are kept as the int8 number b - 128: TensorRT keeps INT8 constants compressed (behind
DequantizeLinear) but widens UINT8 to INT32. A padding index is zero, that is byte 0, kept as -128.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What is taken from a byte to keep it as int8; a zero byte is kept as its negative.
BYTE_OFFSET = 128


def pack_indices(indices: NDArray[np.uint8], index_bits: int) -> NDArray[np.uint8]:
    """(..., G) indices, each < 2^index_bits -> (..., bytes); padded with zeros to whole groups."""
    if index_bits == 8:
        return indices
    padding = [(0, 0)] * (indices.ndim - 1)
    if index_bits == 4:
        padded = np.pad(indices, [*padding, (0, -indices.shape[-1] % 2)])
        return padded[..., 0::2] | (padded[..., 1::2] << np.uint8(4))
    padded = np.pad(indices, [*padding, (0, -indices.shape[-1] % 4)])
    a, b, c, d = (padded[..., i::4] for i in range(4))
    three = np.stack([a | (b << 6), (b >> 2) | (c << 4), (c >> 4) | (d << 2)], axis=-1)
    return three.reshape(*indices.shape[:-1], -1)


def unpack_indices(raw: NDArray[np.uint8], index_bits: int) -> NDArray[np.uint8]:
    """(..., bytes) -> (..., indices), padding included."""
    if index_bits == 8:
        return raw
    if index_bits == 4:
        pairs = np.stack([raw & 15, raw >> 4], axis=-1)
        return pairs.reshape(*raw.shape[:-1], -1)
    x, y, z = (raw[..., i::3] for i in range(3))
    parts = [x & 63, (x >> 6) | ((y & 15) << 2), (y >> 4) | ((z & 3) << 4), z >> 2]
    return np.stack(parts, axis=-1).reshape(*raw.shape[:-1], -1)


def to_int8(raw: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Bytes as files and graphs keep them: b - 128."""
    signed: NDArray[Any] = raw.astype(np.int16) - BYTE_OFFSET
    return signed.astype(np.int8)


def from_int8(packed: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Inverse of `to_int8`."""
    widened: NDArray[Any] = packed.astype(np.int16) + BYTE_OFFSET
    return widened.astype(np.uint8)
