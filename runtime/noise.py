"""Gaussian noise that depends only on (seed, sample, step, element): counter-based, vectorised.

Philox4x32-10 with key = seed and counter = (sample, step, element // 4, 0); the four 32-bit words
of one counter become four normal numbers by Box-Muller in float64. So a picture is the same for any
batch size and any grouping of the request, and no state has to be kept between steps. Counters are
worked off in chunks whose arrays stay in the processor's first cache.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10);
Box & Muller 1958.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import OptionError

#: Array or scalar of 32-bit words.
Words = NDArray[np.uint64] | np.uint64

#: Word "step" of the counter for the initial latents; sampling steps are 0..999, so none uses it.
INITIAL_STEP = 0xFFFF_FFFF

MAX_SEED = 2**64 - 1
MAX_SAMPLE = 2**32 - 1

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_NUM_ROUNDS = 10
_LOW_WORD = np.uint64(0xFFFF_FFFF)
_WORD_BITS = np.uint64(32)

#: Counters of one chunk: arrays of 24 KiB. Fewer pay for calls, more for memory.
_CHUNK = 3072


def gaussian_noise(
    seed: int, samples: NDArray[np.int64], step: int, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Standard normal numbers for some samples at one step.

    Args:
        seed: 0..2**64 - 1.
        samples: (N,) sample indices, each 0..2**32 - 1: the position of a picture in its request.
        step: sampling step i = 0..999, or INITIAL_STEP for the initial latents.
        shape: shape of one sample, such as (C, H, W).
    Returns:
        (N, *shape) float32; row n depends on (seed, samples[n], step) alone.
    Raises:
        OptionError: seed or a sample index out of range.
    """
    check_seed(seed)
    if samples.size and not 0 <= samples.min() <= samples.max() <= MAX_SAMPLE:
        raise OptionError(
            f"sample index {samples.min()}..{samples.max()} is out of range 0..{MAX_SAMPLE}"
        )
    num_elements = prod(shape)
    num_counters = -(-num_elements // 4)
    rows, key = samples.astype(np.uint64), (seed & 0xFFFF_FFFF, seed >> 32)
    normals = np.empty((len(rows) * num_counters, 4), np.float32)
    for start in range(0, len(normals), _CHUNK):
        chunk = normals[start : start + _CHUNK]
        row, position = np.divmod(np.arange(start, start + len(chunk)), num_counters)
        counter = (rows[row], np.uint64(step), position.astype(np.uint64), np.uint64(0))
        words = philox4x32(counter, key)
        _write_normals(words[0], words[1], chunk[:, :2])
        _write_normals(words[2], words[3], chunk[:, 2:])
    elements = normals.reshape(len(rows), 4 * num_counters)[:, :num_elements]
    return np.ascontiguousarray(elements).reshape(len(rows), *shape)


def check_seed(seed: int) -> None:
    """Raise OptionError for a seed that is not an integer of 64 bits."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise OptionError(f"seed is {seed!r}, needed an integer in 0..{MAX_SEED}")
    if not 0 <= seed <= MAX_SEED:
        raise OptionError(f"seed {seed} is out of range 0..{MAX_SEED}")


def philox4x32(counter: Sequence[Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10: four 32-bit words per counter, held in uint64.

    Args:
        counter: four words, uint64 arrays or scalars of shapes that broadcast, each < 2**32.
        key: two words, low word of the seed first.
    Returns:
        Four uint64 arrays of the broadcast shape, each < 2**32.
    Source: Salmon et al. 2011, section 3.3 and figure 2.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(_NUM_ROUNDS):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> _WORD_BITS) ^ (c1 ^ k0),
            product1 & _LOW_WORD,
            (product0 >> _WORD_BITS) ^ (c3 ^ k1),
            product0 & _LOW_WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW_WORD, (k1 + _WEYL[1]) & _LOW_WORD
    return c0, c1, c2, c3


def _write_normals(first: Words, second: Words, out: NDArray[np.float32]) -> None:
    """Box-Muller: words (n,) and (n,) to two normal numbers each, written to out (n, 2)."""
    radius = np.sqrt(-2.0 * np.log(_uniform(first)))
    angle = 2.0 * np.pi * _uniform(second)
    out[:, 0] = radius * np.cos(angle)
    out[:, 1] = radius * np.sin(angle)


def _uniform(words: Words) -> NDArray[np.float64]:
    """Words as numbers inside (0, 1), so that their logarithm is finite."""
    uniform = np.array(words, np.float64)
    uniform += 0.5
    uniform *= 2.0**-32
    return uniform
