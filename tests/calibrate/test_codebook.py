from __future__ import annotations

import pytest
import torch

from vq4dit.calibrate.codebook import assign, fit_codebook
from vq4dit.errors import ShapeError


def _sub_vectors(count, length, seed):
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_assign_is_brute_force_nearest(seed, weighted):
    v, c = _sub_vectors(20000, 4, seed), _sub_vectors(37, 4, seed + 100)
    w = _sub_vectors(20000, 4, seed + 200).abs() + 0.1 if weighted else torch.ones_like(v)
    table = (w[:, None].double() * (v[:, None].double() - c).square()).sum(-1)
    assignments, distances = assign(v, c, weights=w if weighted else None)
    chosen = table.gather(1, assignments[:, None])[:, 0]
    # Expanding the square in float32 may swap codewords that are equally near up to rounding.
    assert (chosen - table.min(dim=1).values).max() < 1e-4
    assert (distances - chosen).abs().max() < 1e-4
    assert (assignments == table.argmin(dim=1)).float().mean() > 0.999


def test_more_iterations_never_hurt():
    v = _sub_vectors(5000, 4, 3)
    errors = [float(assign(v, fit_codebook(v, 64, iterations=n))[1].sum()) for n in (0, 1, 3, 10)]
    assert errors == sorted(errors, reverse=True)


def test_distinct_points_get_a_codeword_each():
    v = _sub_vectors(16, 4, 4)
    codebook = fit_codebook(v.repeat(5, 1), 16, iterations=5)
    assert float(assign(v, codebook)[1].max()) < 1e-5  # rounding of the expanded square


def test_empty_clusters_are_moved_to_the_worst_sub_vectors():
    cloud = 0.01 * _sub_vectors(1000, 2, 5)
    far = torch.tensor([[100.0, 0.0], [0.0, 100.0], [-100.0, 0.0]])
    codebook = fit_codebook(torch.cat([cloud, far]), 8, iterations=10)
    used = torch.bincount(assign(torch.cat([cloud, far]), codebook)[0], minlength=8)
    assert (used > 0).all()
    assert float(assign(far, codebook)[1].max()) < 1e-3


def test_weights_pull_codewords_to_heavy_coordinates():
    v = _sub_vectors(4000, 2, 6)
    weights = torch.tensor([[100.0, 1.0]]).expand(4000, 2)
    error = [
        (v - c[assign(v, c, weights=w)[0]]).square().mean(0)
        for c, w in ((fit_codebook(v, 16, weights=weights), weights), (fit_codebook(v, 16), None))
    ]
    assert error[0][0] < 0.2 * error[1][0]


def test_same_seed_same_codebook():
    v = _sub_vectors(3000, 4, 7)
    first = fit_codebook(v, 32, sample_size=1000, seed=5)
    assert torch.equal(first, fit_codebook(v, 32, sample_size=1000, seed=5))
    assert not torch.equal(first, fit_codebook(v, 32, sample_size=1000, seed=6))


def test_fewer_sub_vectors_than_codewords():
    v = _sub_vectors(3, 4, 8)
    codebook = fit_codebook(v, 8)
    assert codebook.shape == (8, 4)
    assert float(assign(v, codebook)[1].max()) < 1e-5  # rounding of the expanded square


@pytest.mark.parametrize("shape", [(0, 4), (5,)])
def test_bad_shapes(shape):
    with pytest.raises(ShapeError, match="needed"):
        fit_codebook(torch.zeros(shape), 4)
    with pytest.raises(ShapeError, match="weights have shape"):
        fit_codebook(torch.zeros(5, 4), 4, weights=torch.zeros(5, 3))
