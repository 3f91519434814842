"""Candidate sets and the starting ratios over them.

The candidate set of a sub-vector holds its n nearest codewords; its ratios say how much of each
makes up the soft weight until one is decided. Source: VQ4DiT (arXiv 2408.17131) eq. 5 and 6; the
inverse-distance start is what the authors' code does, the uniform one what the paper says.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vq4dit.errors import OptionError

from .codebook import assign, distance_table

RATIO_STARTS = ("uniform", "inverse_distance", "chosen")

#: Starting ratio of the best candidate where the start is "chosen": nearly decided, so that the
#: soft weight begins close to the hard one, yet a gradient can still turn it.
_CHOSEN_RATIO = 0.9
_CHUNK = 16384
_SMALLEST_DISTANCE = 1e-5


def nearest_candidates(
    targets: Tensor, codebook: Tensor, num_candidates: int
) -> tuple[Tensor, Tensor]:
    """The n nearest codewords of each sub-vector, nearest first (eq. 5).

    Args:
        targets: (n_sub_vectors, d).
        codebook: (K, d).
        num_candidates: n, at most K.
    Returns:
        candidates (n_sub_vectors, n) int64 and their squared distances, never negative.
    Raises:
        OptionError: there are not so many codewords.
    """
    check_num_candidates(num_candidates, len(codebook))
    if num_candidates == 1:
        assignments, distances = assign(targets, codebook)
        return assignments[:, None], distances[:, None]
    parts = []
    for part in targets.split(_CHUNK):
        table = distance_table(part, codebook, None)
        parts.append(table.topk(num_candidates, dim=1, largest=False, sorted=True))
    distances = torch.cat([part.values for part in parts]).clamp_(min=0)
    return torch.cat([part.indices for part in parts]), distances


def check_num_candidates(num_candidates: int, codebook_size: int) -> None:
    """Check that a codebook has so many codewords to choose from.

    Raises:
        OptionError: it has fewer, or none are asked for.
    """
    if not 1 <= num_candidates <= codebook_size:
        raise OptionError(
            f"the number of candidates is {num_candidates}, needed 1..{codebook_size}"
        )


def starting_logits(distances: Tensor, start: str) -> Tensor:
    """Logits whose softmax gives the starting ratios.

    Args:
        distances: (..., n) squared distances of the candidates, nearest first.
        start: "uniform" (1/n each), "inverse_distance" (in proportion to 1 / distance) or "chosen"
            (0.9 for the first, the rest shared).
    Returns:
        (..., n) float32.
    Raises:
        OptionError: an unknown start.
    """
    if start == "uniform":
        return torch.zeros_like(distances)
    if start == "inverse_distance":
        shifted = distances + _SMALLEST_DISTANCE
        return torch.log(shifted[..., -1:] / shifted)
    if start == "chosen":
        others = max(distances.shape[-1] - 1, 1)
        logits = torch.zeros_like(distances)
        logits[..., 0] = math.log(_CHOSEN_RATIO / (1 - _CHOSEN_RATIO) * others)
        return logits
    raise OptionError(f"ratio start {start!r} is unknown; needed one of {RATIO_STARTS}")
