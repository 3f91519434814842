"""The metrics that compare a quantized model with its full-precision teacher, by formula.

All take results of equal labels and equal noise. NumPy in float64; knows no models and no files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ShapeError


def relative_latent_error(latents: NDArray[Any], reference: NDArray[Any]) -> float:
    """Sum over all elements of (latents - reference)^2, divided by the sum of reference^2.

    Args:
        latents: (N, C, H, W), of the quantized model.
        reference: (N, C, H, W), of the full-precision model, same labels and noise.
    Raises:
        ShapeError: shapes differ, nothing there, or the reference is zero.
    """
    if latents.shape != reference.shape or latents.size == 0:
        raise ShapeError(
            f"latents have shape {latents.shape} and the reference {reference.shape}; needed equal "
            "and not empty"
        )
    power = float(np.square(reference, dtype=np.float64).sum())
    if power == 0:
        raise ShapeError("the reference latents are all zero; a relative error has no meaning")
    difference = latents.astype(np.float64) - reference
    return float(np.square(difference).sum() / power)


def within_class_variance(latents: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean over classes and latent elements of the variance across the samples of one class.

    Args:
        latents: (N, ...).
        labels: (N,) integers; each class that occurs needs two samples.
    Returns:
        the mean of unbiased variances (divisor n - 1).
    Raises:
        ShapeError: lengths differ, or a class has only one sample.
    """
    if labels.shape != (len(latents),) or len(latents) == 0:
        raise ShapeError(f"labels have shape {labels.shape}, needed ({len(latents)},), not empty")
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ShapeError(
            f"class {classes[counts.argmin()]} has one sample; the variance needs two of each class"
        )
    groups = [latents[labels == c].reshape(n, -1) for c, n in zip(classes, counts, strict=True)]
    return float(np.mean([g.astype(np.float64).var(axis=0, ddof=1).mean() for g in groups]))


def diversity(latents: NDArray[Any], reference: NDArray[Any], labels: NDArray[Any]) -> float:
    """Within-class variance divided by the reference's: 1 is as diverse, 0 is collapsed.

    Args:
        latents, reference: (N, ...).
        labels: (N,), common to both.
    Raises:
        ShapeError: as `within_class_variance`, or the reference has no variance.
    """
    variance = within_class_variance(reference, labels)
    if variance == 0:
        raise ShapeError("the reference latents of each class are equal; nothing to compare with")
    return within_class_variance(latents, labels) / variance


def frechet_distance(
    mean_a: NDArray[Any],
    covariance_a: NDArray[Any],
    mean_b: NDArray[Any],
    covariance_b: NDArray[Any],
) -> float:
    """Squared Fréchet (Wasserstein-2) distance of two Gaussians.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)). The trace of (A B)^(1/2) is taken as that of
    (A^(1/2) B A^(1/2))^(1/2), a symmetric positive semidefinite matrix with the same eigenvalues:
    real by construction, also where A or B is singular.

    Args:
        mean_a, mean_b: (F,).
        covariance_a, covariance_b: (F, F), symmetric positive semidefinite.
    Raises:
        ShapeError: shapes do not fit each other.
    Source: Dowson & Landau 1982, equation 16; used on features by Heusel et al. 2017, equation 6.
    """
    size = mean_a.shape[0] if mean_a.ndim == 1 else 0
    shapes = (mean_a.shape, mean_b.shape, covariance_a.shape, covariance_b.shape)
    if size == 0 or shapes != ((size,), (size,), (size, size), (size, size)):
        raise ShapeError(f"means and covariances have shapes {shapes}, needed (F,) and (F, F)")
    root = _square_root(covariance_a.astype(np.float64))
    product = np.linalg.eigvalsh(root @ covariance_b.astype(np.float64) @ root)
    trace_of_root = np.sqrt(np.clip(product, 0, None)).sum()
    traces = np.trace(covariance_a, dtype=np.float64) + np.trace(covariance_b, dtype=np.float64)
    distance = np.square(mean_a.astype(np.float64) - mean_b).sum() + traces - 2 * trace_of_root
    return max(float(distance), 0.0)


def feature_statistics(
    features: NDArray[Any],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (F,) and unbiased covariance (F, F) of features (N, F), N >= 2."""
    if features.ndim != 2 or len(features) < 2:
        raise ShapeError(f"features have shape {features.shape}, needed (N, F) with N at least 2")
    work = features.astype(np.float64)
    return work.mean(axis=0), np.atleast_2d(np.cov(work, rowvar=False))


def label_accuracy(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of samples whose predicted label is the wanted one.

    Told, never a headline: it rises when samples collapse to the prototype of their class.
    """
    if predicted.shape != labels.shape or labels.size == 0:
        raise ShapeError(f"predicted labels have shape {predicted.shape}, needed {labels.shape}")
    return float(np.mean(predicted == labels))


def _square_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric square root of a symmetric positive semidefinite matrix (F, F)."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    root: NDArray[np.float64] = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root
