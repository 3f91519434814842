"""Philox against published vectors, independence of grouping, and the distribution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerances import GAUSSIAN_SIGMAS, PINNED_NOISE

from vq4dit.errors import OptionError
from vq4dit.runtime.noise import INITIAL_STEP, MAX_SEED, gaussian_noise, philox4x32


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (["00000000"] * 4, ["00000000"] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (["ffffffff"] * 4, ["ffffffff"] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            ["243f6a88", "85a308d3", "13198a2e", "03707344"],
            ["a4093822", "299f31d0"],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers_of_random123(counter, key, words):
    found = philox4x32([np.uint64(int(w, 16)) for w in counter], (int(key[0], 16), int(key[1], 16)))
    assert [f"{int(w):08x}" for w in found] == words.split()


@given(
    seed=st.integers(0, MAX_SEED),
    samples=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5),
    step=st.sampled_from([0, 1, 999, INITIAL_STEP]),
    shape=st.sampled_from([(1,), (3,), (4, 2, 2), (1, 3, 3)]),
)
def test_a_sample_does_not_depend_on_its_neighbours(seed, samples, step, shape):
    together = gaussian_noise(seed, np.array(samples), step, shape)
    alone = [gaussian_noise(seed, np.array([s]), step, shape)[0] for s in samples]
    assert together.dtype == np.float32 and together.shape == (len(samples), *shape)
    assert np.array_equal(together, np.stack(alone)) and np.isfinite(together).all()


def test_pinned_numbers():
    """Seeds of earlier versions go on to give the same pictures, up to the processor's cosine."""
    found = gaussian_noise(12345 << 20, np.array([7, 8]), 3, (2, 3))
    expected = [
        [0.438818812, -1.56578803, -1.70562601, 0.814296305, 0.885310054, 0.325443387],
        [-0.039594952, 0.880202949, 1.13314462, 0.728066325, -0.0303580724, -0.123116426],
    ]  # fmt: skip
    np.testing.assert_allclose(found.reshape(2, -1), expected, rtol=PINNED_NOISE)


@pytest.mark.parametrize("num_elements", [4 * 3072 - 1, 4 * 3072 + 5, 4 * 7000])
def test_chunks_do_not_show(num_elements):
    samples = np.array([4, 0, 9])
    whole = gaussian_noise(3, samples, 7, (num_elements,))
    start = gaussian_noise(3, samples, 7, (8,))
    assert np.array_equal(whole[:, :8], start)
    alone = [gaussian_noise(3, samples[i : i + 1], 7, (num_elements,)) for i in range(3)]
    assert np.array_equal(whole, np.concatenate(alone))
    assert len(np.unique(whole)) > 0.99 * whole.size


def test_every_part_of_the_counter_and_both_halves_of_the_seed_matter():
    zero = np.array([0])
    draws = [
        gaussian_noise(0, zero, 0, (8,)),
        gaussian_noise(1, zero, 0, (8,)),
        gaussian_noise(1 << 32, zero, 0, (8,)),
        gaussian_noise(0, zero + 1, 0, (8,)),
        gaussian_noise(0, zero, 1, (8,)),
        gaussian_noise(0, zero, INITIAL_STEP, (8,)),
    ]
    assert len(np.unique(np.concatenate(draws))) == 8 * len(draws)


@pytest.mark.parametrize("seed", [0, 12345])
def test_moments_are_those_of_the_normal_distribution(seed):
    z = gaussian_noise(seed, np.arange(64), 7, (4, 32, 32)).astype(np.float64).ravel()
    n = z.size
    # Standard errors of the mean, variance, skewness and kurtosis of n normal numbers.
    for moment, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**moment).mean() - expected) <= GAUSSIAN_SIGMAS * np.sqrt(variance / n)
    neighbours = z.reshape(-1, 4)
    correlation = np.corrcoef(neighbours.T) - np.eye(4)
    assert np.abs(correlation).max() <= GAUSSIAN_SIGMAS / np.sqrt(n / 4)


@pytest.mark.parametrize("seed", [-1, 1 << 64, 0.5, True, "1"])
def test_bad_seed(seed):
    with pytest.raises(OptionError, match="seed"):
        gaussian_noise(seed, np.array([0]), 0, (4,))


@pytest.mark.parametrize("sample", [-1, 1 << 32])
def test_bad_sample(sample):
    with pytest.raises(OptionError, match="sample index"):
        gaussian_noise(0, np.array([sample]), 0, (4,))
