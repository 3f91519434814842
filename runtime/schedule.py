"""The diffusion schedule that a model was trained with, and its subset for fewer sampling steps.

Source: Ho et al. 2020 (arXiv 2006.11239), equations 4-7; Nichol & Dhariwal 2021 (arXiv 2102.09672),
section 4 (respacing: betas of the subset from the alpha_bars that are kept). All float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import OptionError

#: The public DiT checkpoints: 1000 betas from 1e-4 to 0.02, evenly spaced.
NUM_TIMESTEPS = 1000
BETA_START = 1e-4
BETA_END = 0.02

#: Names of the ways to choose fewer timesteps than the model was trained with.
SPACINGS = ("linspace", "leading", "trailing")


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


def spaced_timesteps(
    num_steps: int, num_timesteps: int = NUM_TIMESTEPS, spacing: str = "linspace"
) -> NDArray[np.int64]:
    """num_steps timesteps of 0..num_timesteps-1, descending; the model is fed these values.

    Args:
        num_steps: 1..num_timesteps.
        num_timesteps: T, length of the training schedule.
        spacing: one of

            - "linspace": evenly spaced with both ends kept, `round(linspace(0, T - 1, num_steps))`.
              One step alone is t = 0, as in the public sampler. That one adds up its stride in
              floating point before it rounds: for 10, 20, 25, 50, 100, 250 and 1000 steps the set
              is the same; for 278 of the other counts (21, 23, 31, ...) some timesteps differ by
              one, where the exact value ends in .5.
            - "leading": whole multiples of T // num_steps, from 0 on.
            - "trailing": `round(T - i T / num_steps) - 1`, so that the first step is at T - 1.
    Returns:
        (num_steps,) int64.
    Raises:
        OptionError: num_steps is not an integer in 1..num_timesteps, or spacing is unknown.
    Source: Lin et al. 2024 (arXiv 2305.08891), table 2, for the three names.
    """
    check_num_steps(num_steps, num_timesteps)
    if spacing not in SPACINGS:
        raise OptionError(f"spacing {spacing!r} is unknown; needed one of {', '.join(SPACINGS)}")
    if spacing == "linspace":
        return np.linspace(0, num_timesteps - 1, num_steps).round().astype(np.int64)[::-1].copy()
    if spacing == "leading":
        return np.arange(num_steps)[::-1] * (num_timesteps // num_steps)
    # Ties of the rounding go as in diffusers; rounding errors of the stride may add a last -1.
    even = np.arange(num_timesteps, 0, -num_timesteps / num_steps)[:num_steps]
    return even.round().astype(np.int64) - 1


def spaced_schedule(
    steps: int | Sequence[int] | NDArray[np.integer[Any]],
    alpha_bar: NDArray[np.float64],
    spacing: str = "linspace",
) -> SpacedSchedule:
    """The schedule of a run of so many steps, or at these timesteps.

    Args:
        steps: number of steps, or the timesteps themselves, descending.
        alpha_bar: (T,) of the training schedule.
        spacing: see `spaced_timesteps`; of no effect where steps are timesteps.
    Raises:
        OptionError: steps out of range, timesteps not descending, or spacing unknown.
    """
    if isinstance(steps, (Sequence, np.ndarray)) and not isinstance(steps, str):
        timesteps = checked_timesteps(steps, len(alpha_bar))
    else:
        timesteps = spaced_timesteps(steps, len(alpha_bar), spacing)
    kept = alpha_bar[timesteps]
    return SpacedSchedule(
        timesteps=timesteps, alpha_bar=kept, alpha_bar_prev=np.append(kept[1:], 1.0)
    )


def checked_timesteps(
    timesteps: Sequence[int] | NDArray[np.integer[Any]], num_timesteps: int = NUM_TIMESTEPS
) -> NDArray[np.int64]:
    """Timesteps that a caller chose, as (steps,) int64.

    Raises:
        OptionError: none, not integers, out of 0..num_timesteps-1, or not descending.
    """
    array = np.asarray(timesteps)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise OptionError(
            f"steps is an array of shape {array.shape} and dtype {array.dtype}, needed one integer "
            "or a list of at least one timestep"
        )
    array = array.astype(np.int64)
    if array.min() < 0 or array.max() >= num_timesteps or (np.diff(array) >= 0).any():
        raise OptionError(
            f"timesteps {array.min()}..{array.max()}, needed descending integers in "
            f"0..{num_timesteps - 1}, each once"
        )
    return array


def check_num_steps(num_steps: int, num_timesteps: int = NUM_TIMESTEPS) -> None:
    """Raise OptionError unless num_steps is an integer in 1..num_timesteps."""
    if isinstance(num_steps, bool) or not isinstance(num_steps, (int, np.integer)):
        raise OptionError(f"steps is {num_steps!r}, needed an integer in 1..{num_timesteps}")
    if not 1 <= num_steps <= num_timesteps:
        raise OptionError(
            f"steps is {num_steps}, needed 1..{num_timesteps} (the length of the training schedule)"
        )
