"""Learning rates over a training run, as fractions of the peak, and shuffled batches."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def warm_up_then_cosine(
    step: int, steps: int, *, warm_up: int, hold: float = 0.0, floor: float = 0.0
) -> float:
    """Linear warm-up, constant up to the fraction `hold` of the run, then a half cosine to `floor`.

    Args:
        step: 0..steps-1.
        steps: length of the run.
        warm_up: steps of the warm-up.
        hold: share of the run at the peak, 0..1.
        floor: last value, a fraction of the peak.
    """
    rise = min(1.0, (step + 1) / warm_up)
    position = max(0.0, (step / steps - hold) / (1 - hold))
    return rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * position)))


def shuffled_batches(num_samples: int, batch_size: int) -> Iterator[Tensor]:
    """Endless batches of indices (batch_size,); a new permutation when one is used up."""
    if batch_size > num_samples:
        raise ValueError(f"batch size {batch_size} is above the number of samples, {num_samples}")
    while True:
        order = torch.randperm(num_samples)
        for start in range(0, num_samples - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value
