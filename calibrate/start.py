"""Where calibration starts: codebook, candidate set and ratios of one linear layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vq4dit.plugins.layout import Layout, layout_from_bits
from vq4dit.plugins.packing import column_order

from .candidates import nearest_candidates, starting_logits
from .codebook import fit_codebook
from .error_feedback import candidates_with_feedback
from .layer import VQLinear
from .recipe import Recipe

#: A column's weight in K-Means is at least this share of the layer's mean, so that columns that
#: calibration inputs hardly touch do not end up with arbitrary codewords.
_SMALLEST_WEIGHT = 1e-3


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """How one linear is quantized: layout, and R codebooks for as many groups of rows."""

    layout: Layout
    row_groups: int


def layer_spec(name: str, shape: tuple[int, int], bits: int) -> LayerSpec:
    """The named configuration of `bits` for a linear; q, k and v get a codebook each.

    Args:
        name: such as "blocks.0.attn.qkv".
        shape: (O, I) of its weight.
        bits: 1, 2, 3 or 4, a key of CONFIGURATIONS.
    """
    row_groups = 3 if name.endswith("attn.qkv") else 1
    return LayerSpec(layout=layout_from_bits(shape[1], bits), row_groups=row_groups)


def start_layer(
    linear: nn.Linear, spec: LayerSpec, recipe: Recipe, moment: Tensor | None, seed: int
) -> VQLinear:
    """Quantize a linear without training: soft if the recipe has candidates, else hard.

    Args:
        linear: full-precision layer, weight (O, I).
        spec: its layout and row groups.
        recipe: how to start.
        moment: (I, I) second moments of its inputs; used where assignments start by feedback.
        seed: of K-Means.
    """
    order = torch.from_numpy(column_order(spec.layout)).to(linear.weight.device)
    rows, length = linear.out_features, spec.layout.sub_vector_len
    sub_vectors = linear.weight.detach()[:, order].reshape(rows, -1, length)  # (O, G, d)
    groups = sub_vectors.reshape(spec.row_groups, -1, length)  # (R, O / R * G, d)
    feedback = recipe.assignment_start == "feedback" and moment is not None
    weights = None
    if feedback and moment is not None:
        moment = moment[order][:, order]
        weights = _column_weights(moment, rows, length).reshape(groups.shape)
    codebook = torch.stack(
        [
            fit_codebook(
                groups[r],
                spec.layout.codebook_size,
                weights=None if weights is None else weights[r],
                iterations=recipe.kmeans_iterations,
                sample_size=recipe.kmeans_sample,
                seed=seed + r,
            )
            for r in range(spec.row_groups)
        ]
    )  # (R, K, d)
    if feedback and moment is not None:
        candidates, costs = candidates_with_feedback(
            sub_vectors, codebook, moment, recipe.num_candidates
        )
    else:
        found = [
            nearest_candidates(groups[r], codebook[r], recipe.num_candidates)
            for r in range(spec.row_groups)
        ]
        shape = (rows, -1, recipe.num_candidates)
        candidates = torch.cat([indices for indices, _ in found]).reshape(shape)
        costs = torch.cat([distances for _, distances in found]).reshape(shape)
    soft = recipe.num_candidates > 1
    return VQLinear(
        codebook=codebook,
        candidates=candidates,
        ratio_logits=starting_logits(costs, recipe.ratio_start) if soft else None,
        bias=linear.bias.detach(),
        layout=spec.layout,
    )


def _column_weights(moment: Tensor, rows: int, length: int) -> Tensor:
    """Second moment of each column's input as K-Means weight, (O, G, d)."""
    diagonal = moment.diagonal()
    weights = diagonal.clamp(min=_SMALLEST_WEIGHT * diagonal.mean().clamp(min=1e-12))
    return weights.reshape(1, -1, length).expand(rows, -1, -1)
