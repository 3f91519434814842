"""What all stages of one calibration share, in a form that can be sent to another process."""

from __future__ import annotations

from dataclasses import dataclass

from .checkpoint import Checkpoint
from .compute import Compute
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Job:
    """The full-precision model, the recipe, the seed of everything random, where to compute.

    Pickled it is small: a `Checkpoint` travels as the path of its file, not with its weights.
    """

    source: Checkpoint
    recipe: Recipe
    seed: int
    compute: Compute
