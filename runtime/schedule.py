"""The diffusion schedule that a model was trained with, and its subset for fewer sampling steps.

Source: Ho et al. 2020 (arXiv 2006.11239), equations 4-7; Nichol & Dhariwal 2021 (arXiv 2102.09672),
section 4 (respacing: betas of the subset from the alpha_bars that are kept). All float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import OptionError

#: The public DiT checkpoints: 1000 betas from 1e-4 to 0.02, evenly spaced.
NUM_TIMESTEPS = 1000
BETA_START = 1e-4
BETA_END = 0.02


@dataclass(frozen=True, kw_only=True, eq=False)
class SpacedSchedule:
    """The timesteps of one sampling run, first step first (t descending), each array (steps,).

    `alpha_bar_prev[i]` belongs to the timestep after step i, and is 1 for the last one.
    """

    timesteps: NDArray[np.int64]
    alpha_bar: NDArray[np.float64]
    alpha_bar_prev: NDArray[np.float64]

    @property
    def beta(self) -> NDArray[np.float64]:
        """Betas of the shorter chain: 1 - alpha_bar / alpha_bar_prev."""
        return 1.0 - self.alpha_bar / self.alpha_bar_prev

    @property
    def posterior_variance(self) -> NDArray[np.float64]:
        """Variance of q(x_{t-1} | x_t, x_0) (Ho et al. equation 7); 0 at the last step."""
        return self.beta * (1.0 - self.alpha_bar_prev) / (1.0 - self.alpha_bar)


def linear_alpha_bar(
    num_timesteps: int = NUM_TIMESTEPS,
    beta_start: float = BETA_START,
    beta_end: float = BETA_END,
) -> NDArray[np.float64]:
    """Cumulative products of 1 - beta for evenly spaced betas, shape (num_timesteps,)."""
    alphas = 1.0 - np.linspace(beta_start, beta_end, num_timesteps, dtype=np.float64)
    return np.cumprod(alphas, dtype=np.float64)


def spaced_timesteps(num_steps: int, num_timesteps: int = NUM_TIMESTEPS) -> NDArray[np.int64]:
    """num_steps evenly spaced timesteps of 0..num_timesteps-1, both ends kept, descending.

    The model is fed these original t values. One step alone is t = 0, as in the public sampler.
    The public sampler adds up its stride in floating point before it rounds. For 10, 20, 25, 50,
    100, 250 and 1000 steps that is the same set; for 278 of the other counts (21, 23, 31, ...) some
    timesteps differ by one, where the exact value ends in .5.

    Raises:
        OptionError: num_steps is not an integer in 1..num_timesteps.
    """
    check_num_steps(num_steps, num_timesteps)
    even = np.linspace(0, num_timesteps - 1, num_steps).round().astype(np.int64)
    return np.ascontiguousarray(even[::-1])


def spaced_schedule(num_steps: int, alpha_bar: NDArray[np.float64]) -> SpacedSchedule:
    """The schedule of a run of num_steps steps out of the training schedule's alpha_bar (T,)."""
    timesteps = spaced_timesteps(num_steps, len(alpha_bar))
    kept = alpha_bar[timesteps]
    return SpacedSchedule(
        timesteps=timesteps, alpha_bar=kept, alpha_bar_prev=np.append(kept[1:], 1.0)
    )


def check_num_steps(num_steps: int, num_timesteps: int = NUM_TIMESTEPS) -> None:
    """Raise OptionError unless num_steps is an integer in 1..num_timesteps."""
    if isinstance(num_steps, bool) or not isinstance(num_steps, (int, np.integer)):
        raise OptionError(f"steps is {num_steps!r}, needed an integer in 1..{num_timesteps}")
    if not 1 <= num_steps <= num_timesteps:
        raise OptionError(
            f"steps is {num_steps}, needed 1..{num_timesteps} (the length of the training schedule)"
        )
