"""The metrics' formulas: identities, closed forms, invariances, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerances import FLOAT64_METRIC

from vq4dit.errors import ShapeError
from vq4dit.metrics import (
    diversity,
    feature_statistics,
    frechet_distance,
    label_accuracy,
    relative_latent_error,
    within_class_variance,
)

SEEDS = st.integers(0, 2**32 - 1)


def random_gaussian(rng, size, rank=None):
    factor = rng.normal(size=(size, rank or size + 2))
    return rng.normal(size=size), factor @ factor.T / factor.shape[1]


def balanced(rng, per_class=4, classes=3, shape=(2, 2, 2)):
    labels = np.arange(per_class * classes) % classes
    return rng.normal(size=(len(labels), *shape)).astype(np.float32), labels


@given(seed=SEEDS, size=st.integers(1, 8))
def test_frechet_distance_of_a_gaussian_to_itself_is_zero(seed, size):
    mean, covariance = random_gaussian(np.random.default_rng(seed), size)
    scale = np.trace(covariance)
    assert frechet_distance(mean, covariance, mean, covariance) <= FLOAT64_METRIC * scale


@given(seed=SEEDS, size=st.integers(1, 8))
def test_frechet_distance_of_commuting_gaussians_has_a_closed_form(seed, size):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    a, b = rng.uniform(0.1, 3, (2, size))  # standard deviations along the common axes
    mean_a, mean_b = rng.normal(size=(2, size))
    expected = np.sum((mean_a - mean_b) ** 2) + np.sum((a - b) ** 2)
    found = frechet_distance(
        mean_a, (basis * a**2) @ basis.T, mean_b, (basis * b**2) @ basis.T
    )  # fmt: skip
    assert found == pytest.approx(expected, rel=FLOAT64_METRIC, abs=FLOAT64_METRIC)


def test_frechet_distance_of_one_dimension_by_hand():
    one, four = np.array([[1.0]]), np.array([[4.0]])
    assert frechet_distance(np.zeros(1), one, np.full(1, 3.0), four) == pytest.approx(
        3**2 + 1 + 4 - 2 * 2
    )


@given(seed=SEEDS)
def test_frechet_distance_is_symmetric_and_invariant_under_rotation_and_shift(seed):
    rng = np.random.default_rng(seed)
    (mean_a, a), (mean_b, b) = random_gaussian(rng, 5), random_gaussian(rng, 5)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    shift = rng.normal(size=5)
    distance = frechet_distance(mean_a, a, mean_b, b)
    moved = frechet_distance(
        rotation @ mean_a + shift, rotation @ a @ rotation.T,
        rotation @ mean_b + shift, rotation @ b @ rotation.T,
    )  # fmt: skip
    assert frechet_distance(mean_b, b, mean_a, a) == pytest.approx(distance, rel=FLOAT64_METRIC)
    assert moved == pytest.approx(distance, rel=FLOAT64_METRIC)


@pytest.mark.parametrize("seed", range(3))
def test_frechet_distance_takes_singular_covariances(seed):
    rng = np.random.default_rng(seed)
    (mean_a, a), (mean_b, b) = random_gaussian(rng, 6, rank=2), random_gaussian(rng, 6, rank=2)
    distance = frechet_distance(mean_a, a, mean_b, b)
    assert np.isfinite(distance)
    assert distance >= np.sum((mean_a - mean_b) ** 2) - FLOAT64_METRIC


def test_frechet_distance_agrees_with_the_matrix_square_root():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(5)
    (mean_a, a), (mean_b, b) = random_gaussian(rng, 16), random_gaussian(rng, 16)
    expected = np.sum((mean_a - mean_b) ** 2) + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(mean_a, a, mean_b, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_refuses_shapes_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"needed \(F,\) and \(F, F\)"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(3), np.eye(2))


def test_feature_statistics_are_numpys():
    features = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    mean, covariance = feature_statistics(features)
    np.testing.assert_allclose(mean, features.mean(0, dtype=np.float64))
    np.testing.assert_allclose(covariance, np.cov(features.astype(np.float64).T))
    with pytest.raises(ShapeError, match="N at least 2"):
        feature_statistics(features[:1])


@given(seed=SEEDS, scale=st.floats(0.1, 10))
def test_relative_latent_error_of_scaled_latents_is_the_squared_excess(seed, scale):
    reference, _ = balanced(np.random.default_rng(seed))
    reference = reference.astype(np.float64)
    assert relative_latent_error(reference, reference) == 0
    assert relative_latent_error(scale * reference, reference) == pytest.approx(
        (scale - 1) ** 2, rel=FLOAT64_METRIC, abs=FLOAT64_METRIC
    )


def test_relative_latent_error_weighs_all_samples_together():
    reference = np.array([[3.0], [1.0]])
    assert relative_latent_error(np.array([[3.0], [2.0]]), reference) == pytest.approx(1 / 10)


def test_relative_latent_error_refuses_other_shapes_and_a_zero_reference():
    with pytest.raises(ShapeError, match="needed equal"):
        relative_latent_error(np.zeros((2, 1)), np.zeros((3, 1)))
    with pytest.raises(ShapeError, match="all zero"):
        relative_latent_error(np.zeros((2, 1)), np.zeros((2, 1)))


def test_within_class_variance_by_hand():
    latents = np.array([[0.0], [10.0], [2.0], [10.0]])  # class 0: 0, 2; class 1: 10, 10
    assert within_class_variance(latents, np.array([0, 1, 0, 1])) == pytest.approx((2 + 0) / 2)


@given(seed=SEEDS, scale=st.floats(0, 4))
def test_diversity_is_one_for_equals_and_quadratic_in_the_spread(seed, scale):
    rng = np.random.default_rng(seed)
    reference, labels = balanced(rng)
    centres = np.stack([reference[labels == c].mean(0) for c in range(3)])[labels]
    spread = centres + scale * (reference.astype(np.float64) - centres)
    assert diversity(reference, reference, labels) == 1
    assert diversity(spread, reference, labels) == pytest.approx(scale**2, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_diversity_ignores_class_means_and_the_order_of_samples(seed):
    rng = np.random.default_rng(seed)
    reference, labels = balanced(rng)
    order = rng.permutation(len(labels))
    shifted = reference.astype(np.float64) + labels[:, None, None, None]
    assert diversity(shifted, reference, labels) == pytest.approx(1)
    assert within_class_variance(reference[order], labels[order]) == pytest.approx(
        within_class_variance(reference, labels)
    )


def test_diversity_refuses_single_samples_and_a_collapsed_reference():
    with pytest.raises(ShapeError, match="class 1 has one sample"):
        within_class_variance(np.zeros((3, 2)), np.array([0, 0, 1]))
    with pytest.raises(ShapeError, match="are equal"):
        diversity(np.zeros((2, 1)), np.zeros((2, 1)), np.array([0, 0]))
    with pytest.raises(ShapeError, match="needed"):
        within_class_variance(np.zeros((3, 2)), np.zeros(2))


def test_label_accuracy_is_the_share_of_hits():
    assert label_accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 3])) == 0.75
    with pytest.raises(ShapeError, match="needed"):
        label_accuracy(np.array([0]), np.array([0, 1]))
