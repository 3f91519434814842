"""Training of open ratios, whatever the features that are compared: one step, freezing, deciding.

Source: VQ4DiT (arXiv 2408.17131) L = L_d + L_r (eq. 8 to 10); progressive freezing as in the
authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor

from vq4dit.errors import Vq4ditError

from .layer import VQLinear
from .losses import ratio_loss
from .recipe import Recipe

_REMEDY = (
    "use another seed, no autocast, or a recipe with smaller ratio_lr and codebook_lr, and start "
    "anew without --resume, since finished blocks were trained with these"
)


@dataclass(frozen=True, kw_only=True)
class SoftStep:
    """What one step of the soft stage reports: loss parts and the share of frozen sub-vectors."""

    feature_loss: float
    ratio_loss: float
    frozen_share: float


def curve_from_steps(steps: Sequence[SoftStep]) -> Tensor:
    """The numbers of all steps as (steps, 3) float64, to be stored."""
    return torch.tensor([astuple(step) for step in steps], dtype=torch.float64).reshape(-1, 3)


def steps_from_curve(curve: Tensor) -> list[SoftStep]:
    """The steps that a stored curve was made from, exactly."""
    names = [field.name for field in fields(SoftStep)]
    return [SoftStep(**dict(zip(names, row, strict=True))) for row in curve.tolist()]


class RatioTrainer:
    """The recipe's optimizer over the open ratios, biases and codebooks of some layers."""

    def __init__(self, layers: list[VQLinear], recipe: Recipe) -> None:
        self._layers, self._recipe = layers, recipe
        self.optimizer = ratio_optimizer(layers, recipe)

    def step(self, distance: Tensor) -> SoftStep:
        """One optimizer step on L_d = `distance` (a scalar with a graph) + weighted L_r."""
        openness = mean_ratio_loss(self._layers, self._recipe.ratio_loss)
        loss = distance + self._recipe.ratio_loss_weight * openness
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        check_finite(loss, "the open ratios", _REMEDY)
        self.optimizer.step()
        return SoftStep(
            feature_loss=distance.item(),
            ratio_loss=openness.item(),
            frozen_share=freeze_layers(self._layers, self._recipe),
        )


def ratio_optimizer(layers: list[VQLinear], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over ratios, biases and codebooks.

    Where the recipe is not joint, a codebook waits without gradient until its layer is decided.
    """
    ratios = [layer.ratio_logits for layer in layers if layer.ratio_logits is not None]
    others = [p for layer in layers for p in (layer.bias, layer.codebook)]
    for layer in layers:
        layer.codebook.requires_grad_(recipe.joint_codebook or not layer.is_soft)
    groups = [
        {"params": ratios, "lr": recipe.ratio_lr},
        {"params": others, "lr": recipe.codebook_lr},
    ]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, betas=(0.9, 0.95))
    return torch.optim.RMSprop(groups, alpha=0.9)  # as published


def mean_ratio_loss(layers: list[VQLinear], form: str) -> Tensor:
    """L_r, mean over the layers that are still soft; 0 if none is."""
    losses = [ratio_loss(layer.ratios(), layer.frozen, form) for layer in layers if layer.is_soft]
    if not losses:
        return torch.zeros((), device=layers[0].codebook.device)
    return torch.stack(losses).mean()


def freeze_layers(layers: list[VQLinear], recipe: Recipe) -> float:
    """Freeze decided sub-vectors, decide nearly frozen layers; returns the mean frozen share."""
    if recipe.freeze_threshold is None:
        return 0.0
    shares = []
    for layer in layers:
        share = layer.freeze(recipe.freeze_threshold)
        if layer.is_soft and share > recipe.layer_freeze_share:
            layer.harden()
            layer.codebook.requires_grad_(True)
        shares.append(share)
    return sum(shares) / len(shares)


def check_finite(loss: Tensor, where: str, remedy: str) -> None:
    """Stop a run that has diverged; what it saved before stays usable.

    Args:
        loss: a scalar.
        where, remedy: what is trained, and what to do, for the message.
    Raises:
        Vq4ditError: the loss is NaN or infinite.
    """
    if not torch.isfinite(loss):
        raise Vq4ditError(
            f"the loss of {where} became {loss.item()}, needed a finite number; {remedy}"
        )
