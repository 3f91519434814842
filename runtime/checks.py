"""Checks on what an engine computed: numbers that are not finite, pictures of one colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import Vq4ditError

from .session import Floats

_WHAT_TO_DO = (
    'run `vq4dit verify` on the engine, or use a smaller cfg_scale or accuracy "exact"'
)  # fmt: skip


def check_latents(
    latents: Floats, samples: NDArray[np.int64], *, step: int, num_steps: int, t: int
) -> None:
    """Raise if the latent of a sample is no longer one after a step.

    Args:
        latents: (N, C, H, W) float32.
        samples: (N,) sample indices, for the message.
        step: 0..num_steps-1, the step that was just taken, at timestep t.
    Raises:
        Vq4ditError: a latent has NaN or infinite values, or is one number everywhere.
    """
    bad = _first_bad(latents)
    if bad is not None:
        row, what = bad
        raise Vq4ditError(
            f"latents became {what} at step {step + 1} of {num_steps} (t = {t}), sample "
            f"{samples[row]}; {_WHAT_TO_DO}"
        )


def check_pictures(pictures: Floats, samples: NDArray[np.int64], *, num_steps: int) -> None:
    """Raise if a decoded picture (N, C, H, W) shows nothing.

    Raises:
        Vq4ditError: a picture has NaN or infinite values, or is one number everywhere once it is
            clipped to -1..1.
    """
    bad = _first_bad(np.clip(pictures, -1.0, 1.0))
    if bad is not None:
        row, what = bad
        raise Vq4ditError(
            f"the decoded picture is {what} after step {num_steps} of {num_steps}, sample "
            f"{samples[row]}; {_WHAT_TO_DO}"
        )


def _first_bad(arrays: Floats) -> tuple[int, str] | None:
    """Row and fault of the first array that is not finite or constant."""
    flat = arrays.reshape(len(arrays), -1)
    low, high = flat.min(axis=1), flat.max(axis=1)  # NaN goes through both
    finite = np.isfinite(low) & np.isfinite(high)
    constant = finite & (low == high) & (flat.shape[1] > 1)
    if not finite.all():
        return int(np.argmin(finite)), "NaN or infinite"
    return (int(np.argmax(constant)), "constant") if constant.any() else None
