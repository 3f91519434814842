"""The training loss: weighted eps error, and the variational bound for the learned variance.

Sources: Hang et al. 2023 (arXiv 2303.09556), section 3.4 (min-SNR weights, gamma 5, for eps);
Nichol & Dhariwal 2021 (arXiv 2102.09672), equations 15 and 16 (learned range, hybrid loss).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vq4dit.runtime.schedule import NUM_TIMESTEPS, linear_alpha_bar

_MAX_SIGNAL_TO_NOISE = 5.0
_EPS_WEIGHT = 3.0
_BOUND_WEIGHT = 0.05


class DiffusionLoss:
    """Draws timesteps and noise, runs the model, returns a scalar; tables in float64 once."""

    def __init__(self) -> None:
        alpha_bar = linear_alpha_bar()
        before = np.append(1.0, alpha_bar[:-1])
        beta = 1 - alpha_bar / before
        posterior = beta * (1 - before) / (1 - alpha_bar)
        self._signal, self._noise = _table(np.sqrt(alpha_bar)), _table(np.sqrt(1 - alpha_bar))
        ratio = alpha_bar / (1 - alpha_bar)
        self._weight = _table(np.minimum(ratio, _MAX_SIGNAL_TO_NOISE) / ratio)
        self._log_beta = _table(np.log(beta))
        # The posterior's variance is 0 at t = 0; the value at t = 1 stands in for it.
        self._log_posterior = _table(np.log(np.append(posterior[1], posterior[1:])))
        self._start_weight = _table(beta * np.sqrt(before) / (1 - alpha_bar))

    def __call__(self, model: nn.Module, start: Tensor, label: Tensor) -> Tensor:
        """Loss of one batch.

        Args:
            model: forward(latent, timestep, label) -> (N, 2 C, H, W), eps and variance values.
            start: noise-free latents (N, C, H, W).
            label: (N,) int64.
        """
        timestep = torch.randint(0, NUM_TIMESTEPS, (len(start),))
        noise = torch.randn_like(start)
        latent = self._signal[timestep] * start + self._noise[timestep] * noise
        eps, values = model(latent, timestep, label).chunk(2, dim=1)
        error = (self._weight[timestep] * (eps - noise).square()).mean()
        bound = self._bound(eps.detach(), values, start, latent, timestep)
        return _EPS_WEIGHT * error + _BOUND_WEIGHT * bound

    def _bound(
        self, eps: Tensor, values: Tensor, start: Tensor, latent: Tensor, timestep: Tensor
    ) -> Tensor:
        """Divergence of the model's step from the true posterior, in bits per latent value.

        Only the variance learns from it (eps comes detached); t = 0, which has no posterior, is
        left out.
        """
        fraction = (values + 1) / 2
        wanted = self._log_posterior[timestep]
        found = fraction * self._log_beta[timestep] + (1 - fraction) * wanted
        predicted = (latent - self._noise[timestep] * eps) / self._signal[timestep]
        distance = self._start_weight[timestep] * (predicted - start)  # of the two means
        divergence = 0.5 * (
            found - wanted - 1 + torch.exp(wanted - found) + distance.square() * torch.exp(-found)
        )
        per_sample = divergence.mean(dim=(1, 2, 3)) / math.log(2)
        return torch.where(timestep == 0, 0.0, per_sample).mean()


def _table(values: NDArray[np.float64]) -> Tensor:
    """(T,) float64 -> (T, 1, 1, 1) float32, so that indexing by timestep broadcasts."""
    return torch.from_numpy(values).float().view(-1, 1, 1, 1)
