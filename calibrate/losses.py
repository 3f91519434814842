"""Losses of calibration: distance of features (L_d) and openness of ratios (L_r)."""

from __future__ import annotations

import torch
from torch import Tensor

from vq4dit.errors import OptionError

RATIO_LOSSES = ("paper", "reference")


def relative_error(student: Tensor, teacher: Tensor, scale: Tensor | None = None) -> Tensor:
    """Squared error over the teacher's mean square, a scalar: 0 is equal, 1 is all wrong.

    `scale` weights each sample's squared error, (N,); None = 1.
    """
    error = (student - teacher).square().flatten(1).mean(dim=1)  # (N,)
    if scale is not None:
        error = error * scale
    return error.mean() / teacher.square().mean().clamp(min=1e-12)


def ratio_loss(ratios: Tensor, frozen: Tensor, form: str) -> Tensor:
    """How far ratios are from being decided, a scalar; 0 when all are one-hot.

    Args:
        ratios: (sub-vectors, n), each row sums to 1.
        frozen: (sub-vectors,) bool; form "reference" leaves these out.
        form: "paper", mean over sub-vectors of sum_n (1 - |2 r - 1|): VQ4DiT eq. 9.
            "reference", 2 * mean of r (1 - r) over what is open: the authors' code.
    """
    if form == "paper":
        return (1 - (2 * ratios - 1).abs()).sum(dim=1).mean()
    if form == "reference":
        still_open = (~frozen).to(ratios.dtype)[:, None]
        count = (still_open.sum() * ratios.shape[1]).clamp(min=1)
        return 2 * (ratios * (1 - ratios) * still_open).sum() / count
    raise OptionError(f"ratio loss {form!r} is unknown; needed one of {RATIO_LOSSES}")


def timestep_weights(timesteps: Tensor, alphas_cumprod: Tensor, power: float) -> Tensor:
    """Weight of an eps error at each timestep, mean 1 over the given timesteps.

    (1 - abar)^power: power 0 is uniform. An eps error moves x_start by sqrt((1 - abar) / abar) and
    the next latent by far less; which power serves the final latents best is an experiment.
    """
    weights = (1 - alphas_cumprod[timesteps.long()]) ** power
    return (weights / weights.mean()).to(torch.float32)
