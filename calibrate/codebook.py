"""Codebooks by K-Means: sub-vectors in, codewords and assignments out.

k-means++ seeding (Arthur & Vassilvitskii 2007), Lloyd iterations with chunked distances, empty
clusters moved to the worst represented sub-vectors. Each coordinate may carry a weight, so that a
column that sees large inputs counts more. Everything is seeded, on the CPU whatever the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vq4dit.errors import ShapeError

#: Sub-vectors per distance chunk: (chunk, K = 256) float32 distances stay below 20 MB.
_CHUNK = 16384

#: k-means++ looks at this many sub-vectors; its cost is K passes over them.
_SEEDING_SAMPLE = 8192


def fit_codebook(
    sub_vectors: Tensor,
    codebook_size: int,
    *,
    weights: Tensor | None = None,
    iterations: int = 20,
    sample_size: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Fit codewords to sub-vectors by (weighted) K-Means.

    Args:
        sub_vectors: (n, d) float32.
        codebook_size: K.
        weights: (n, d) positive float32, weight of each coordinate's squared error; None = 1.
        iterations: Lloyd iterations.
        sample_size: fit on that many sub-vectors drawn without replacement; None = all.
        seed: of the sample, the seeding and the repairs.
    Returns:
        (K, d) float32. Where n < K the codewords beyond the n-th repeat earlier ones.
    Raises:
        ShapeError: no sub-vectors, or weights of another shape.
    Source: Lloyd 1982; weighted means minimise sum_i w_i (v_i - c)^2.
    """
    if sub_vectors.ndim != 2 or len(sub_vectors) == 0:
        raise ShapeError(f"sub-vectors have shape {tuple(sub_vectors.shape)}, needed (n > 0, d)")
    if weights is not None and weights.shape != sub_vectors.shape:
        raise ShapeError(
            f"weights have shape {tuple(weights.shape)}, needed {tuple(sub_vectors.shape)}"
        )
    generator = torch.Generator().manual_seed(seed)
    if sample_size is not None and sample_size < len(sub_vectors):
        chosen = torch.randperm(len(sub_vectors), generator=generator)[:sample_size]
        sub_vectors, weights = _rows(sub_vectors, weights, chosen)
    codebook = _seed_codewords(sub_vectors, codebook_size, weights, generator)
    for _ in range(iterations):
        assignments, distances = assign(sub_vectors, codebook, weights=weights)
        codebook = _means(sub_vectors, assignments, distances, codebook, weights)
    return codebook


def assign(
    sub_vectors: Tensor, codebook: Tensor, *, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The nearest codeword of each sub-vector.

    Args:
        sub_vectors: (n, d).
        codebook: (K, d).
        weights: (n, d) or None, as in `fit_codebook`.
    Returns:
        assignments (n,) int64 and (weighted) squared distances (n,), never negative.
    """
    device = sub_vectors.device
    assignments = torch.empty(len(sub_vectors), dtype=torch.int64, device=device)
    distances = torch.empty(len(sub_vectors), device=device)
    for start in range(0, len(sub_vectors), _CHUNK):
        part = slice(start, start + _CHUNK)
        table = distance_table(
            sub_vectors[part], codebook, None if weights is None else weights[part]
        )
        distances[part], assignments[part] = table.min(dim=1)
    return assignments, distances.clamp_(min=0)


def distance_table(sub_vectors: Tensor, codebook: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted squared distances (n, K), expanded; rounding may take them below 0."""
    if weights is None:
        constant = sub_vectors.square().sum(dim=1, keepdim=True) + codebook.square().sum(dim=1)
        return torch.addmm(constant, sub_vectors, codebook.T, alpha=-2)
    weighted = weights * sub_vectors
    left = torch.cat([weighted * -2, weights], dim=1)  # (n, 2d)
    right = torch.cat([codebook, codebook.square()], dim=1)  # (K, 2d)
    return torch.addmm((weighted * sub_vectors).sum(dim=1, keepdim=True), left, right.T)


def _seed_codewords(
    sub_vectors: Tensor, codebook_size: int, weights: Tensor | None, generator: torch.Generator
) -> Tensor:
    """k-means++: each next codeword is drawn in proportion to its distance from the chosen ones.

    K small steps, each of which needs the one before: done on the CPU.
    """
    device = sub_vectors.device
    if len(sub_vectors) > _SEEDING_SAMPLE:
        chosen = torch.randperm(len(sub_vectors), generator=generator)[:_SEEDING_SAMPLE]
        sub_vectors, weights = _rows(sub_vectors, weights, chosen)
    sub_vectors = sub_vectors.cpu()
    weights = None if weights is None else weights.cpu()
    first = int(torch.randint(len(sub_vectors), (1,), generator=generator))
    codewords = [sub_vectors[first]]
    nearest = torch.full((len(sub_vectors),), torch.inf)
    for _ in range(codebook_size - 1):
        error = (sub_vectors - codewords[-1]).square()
        nearest = torch.minimum(nearest, (error if weights is None else error * weights).sum(dim=1))
        total = nearest.sum()
        if not total > 0:  # fewer distinct sub-vectors than codewords
            codewords.append(codewords[0])
            continue
        place = torch.rand((), generator=generator) * total
        index = int(torch.searchsorted(nearest.cumsum(0), place).clamp(max=len(nearest) - 1))
        codewords.append(sub_vectors[index])
    return torch.stack(codewords).to(device)


def _rows(
    sub_vectors: Tensor, weights: Tensor | None, chosen: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Some rows of the sub-vectors and of their weights."""
    chosen = chosen.to(sub_vectors.device)
    return sub_vectors[chosen], None if weights is None else weights[chosen]


def _means(
    sub_vectors: Tensor,
    assignments: Tensor,
    distances: Tensor,
    codebook: Tensor,
    weights: Tensor | None,
) -> Tensor:
    """Weighted mean of each cluster; an empty one takes a worst represented sub-vector."""
    ones = torch.ones_like(sub_vectors) if weights is None else weights
    total = torch.zeros_like(codebook).index_add_(0, assignments, ones * sub_vectors)
    mass = torch.zeros_like(codebook).index_add_(0, assignments, ones)
    means = torch.where(mass > 0, total / mass.clamp(min=1e-30), codebook)
    empty = torch.bincount(assignments, minlength=len(codebook)) == 0
    num_empty = min(int(empty.sum()), int((distances > 0).sum()))
    if num_empty:
        worst = distances.topk(num_empty).indices
        means[empty.nonzero()[:num_empty, 0]] = sub_vectors[worst]
    return means
