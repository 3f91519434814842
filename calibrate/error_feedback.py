"""Assignments that make up for each other: decide sub-vector by sub-vector, pass the error on.

The layer's output error on inputs x is e H e^T with H = E[x x^T], so the error of a sub-vector that
is already decided can be cancelled in part by the columns that are not. Source: GPTQ (Frantar et
al. 2022, arXiv 2210.17323, section 3) for scalars, GPTVQ (van Baalen et al. 2024, arXiv 2402.15319)
for vectors; written from the formulas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vq4dit.errors import ShapeError

from .candidates import check_num_candidates

#: Added to H's diagonal, relative to its mean, so that unused inputs do not make it singular.
_DAMPING = 0.01

#: Columns whose feedback is applied at once; the rest of the row is updated in one product.
_COLUMN_BLOCK = 128


def candidates_with_feedback(
    sub_vectors: Tensor, codebook: Tensor, second_moment: Tensor, num_candidates: int
) -> tuple[Tensor, Tensor]:
    """Choose codewords so that the layer's output error on its inputs is small.

    Args:
        sub_vectors: (O, G, d) float32, the weight in sub-vector column order.
        codebook: (R, K, d); row o uses codebook o // (O / R).
        second_moment: H (I, I) = E[x x^T] of the layer's inputs in the same column order.
        num_candidates: n codewords to name per sub-vector, best first; errors of the best one are
            passed on.
    Returns:
        candidates (O, G, n) int64 and the cost of each, (O, G, n), never negative.
    Raises:
        ShapeError: sizes do not fit.   OptionError: a codebook has not so many codewords.
    Source: with H^-1 = U^T U (U upper triangular) the best choice for columns b minimises
    |(w_b - c) U_bb^-1|^2 and the columns right of b change by -(w_b - c) U_bb^-1 U_b,right. Groups
    are taken by falling mean of H's diagonal, as GPTQ's "act order" does for single columns.
    """
    rows, groups, length = sub_vectors.shape
    if second_moment.shape != (groups * length, groups * length):
        raise ShapeError(
            f"second moment has shape {tuple(second_moment.shape)}, "
            f"needed {(groups * length, groups * length)}"
        )
    check_num_candidates(num_candidates, codebook.shape[1])
    order = _group_order(second_moment, groups, length)
    device = sub_vectors.device
    columns = (order[:, None] * length + torch.arange(length, device=device)).reshape(-1)
    upper = _inverse_factor(second_moment[columns][:, columns])
    work = sub_vectors[:, order].reshape(rows, -1).clone()  # (O, I), overwritten by the targets
    candidates = torch.empty(rows, groups, num_candidates, dtype=torch.int64, device=device)
    costs = torch.empty(rows, groups, num_candidates, device=device)
    width = max(_COLUMN_BLOCK // length, 1) * length
    for start in range(0, groups * length, width):
        stop = min(start + width, groups * length)
        scaled_errors = torch.empty(rows, stop - start, device=device)
        for column in range(start, stop, length):
            group = order[column // length]
            candidates[:, group], costs[:, group], error = _choose(
                work[:, column : column + length], codebook, upper, column, num_candidates
            )
            scaled_errors[:, column - start : column - start + length] = error
            rest = slice(column + length, stop)
            work[:, rest] -= error @ upper[column : column + length, rest]
        work[:, stop:] -= scaled_errors @ upper[start:stop, stop:]
    return candidates, costs


def _choose(
    target: Tensor, codebook: Tensor, upper: Tensor, column: int, num_candidates: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Best codewords for one sub-vector position of all rows.

    Returns candidates (O, n), their costs (O, n), and the best one's scaled error
    (w - c) U_bb^-1, (O, d).
    """
    row_groups, _, length = codebook.shape
    diagonal = upper[column : column + length, column : column + length]
    identity = torch.eye(length, device=diagonal.device)
    inverse = torch.linalg.solve_triangular(diagonal, identity, upper=True)
    scaled = (target @ inverse).reshape(row_groups, -1, length)  # (R, O / R, d)
    table = codebook @ inverse  # (R, K, d)
    square = table.square().sum(dim=-1)[:, None] + scaled.square().sum(dim=-1, keepdim=True)
    distances = torch.baddbmm(square, scaled, table.mT, alpha=-2)  # (R, O / R, K)
    if num_candidates == 1:
        costs, chosen = distances.min(dim=-1, keepdim=True)
    else:
        costs, chosen = distances.topk(num_candidates, dim=-1, largest=False, sorted=True)
    best = chosen[..., :1].expand(-1, -1, length)
    error = (scaled - table.gather(1, best)).reshape(len(target), length)
    shape = (len(target), num_candidates)
    return chosen.reshape(shape), costs.reshape(shape).clamp(min=0), error


def _group_order(second_moment: Tensor, groups: int, length: int) -> Tensor:
    """Sub-vector positions by falling mean of their inputs' second moments."""
    importance = second_moment.diagonal().reshape(groups, length).mean(dim=1)
    return importance.argsort(descending=True, stable=True)


def _inverse_factor(second_moment: Tensor) -> Tensor:
    """Upper triangular U with U^T U = (H + damping)^-1, computed in float64."""
    damped = second_moment.double()
    damped.diagonal().add_(_DAMPING * damped.diagonal().mean().clamp(min=1e-12))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()
