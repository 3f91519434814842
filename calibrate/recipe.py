"""Recipes: named sets of calibration settings for one engine.

`vq4dit` (default) is ours; `paper` follows VQ4DiT (arXiv 2408.17131) as written, `reference` the
authors' code where that differs. Learning rates of the last two are the published ones.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from vq4dit.errors import OptionError

from .candidates import RATIO_STARTS
from .losses import RATIO_LOSSES

ASSIGNMENT_STARTS = ("nearest", "feedback")
SCOPES = ("block", "model")
OPTIMIZERS = ("adam", "rmsprop")

#: Counts, and the least that makes sense.
_LEAST = {
    "kmeans_iterations": 0,
    "kmeans_sample": 1,
    "num_candidates": 1,
    "soft_steps": 0,
    "batch_size": 1,
    "distill_steps": 0,
    "distill_batch_size": 1,
    "num_trajectories": 1,
    "trajectory_steps": 2,
    "pool_tokens": 1,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a calibration run; see each stage's module for what they do.

    Start: `assignment_start` "nearest" (plain K-Means) or "feedback" (error_feedback.py, codebooks
    weighted by the inputs' second moments); `kmeans_iterations`, `kmeans_sample` sub-vectors.
    Ratios: `num_candidates` n (1: no soft stage), `ratio_start`, `ratio_loss`, `ratio_loss_weight`,
    `freeze_threshold` (None: decide at the end only), `layer_freeze_share` (a layer is decided when
    so many of its sub-vectors are), `joint_codebook` (codebooks train while ratios are open).
    Soft stage: `scope` "block" (one block at a time on its own inputs) or "model" (whole student,
    loss over all block outputs), `optimizer`, `soft_steps`, `batch_size`, `ratio_lr`,
    `codebook_lr` (biases too).
    Distillation: `distill_steps` of codebooks and biases on the model's output, `distill_lr`,
    `distill_batch_size`.
    Data: `num_trajectories`, `trajectory_steps`, `guidance_range`, `null_share`, `pool_tokens`
    (points of the blocks' inputs times tokens per point).
    """

    name: str
    assignment_start: str
    kmeans_iterations: int
    kmeans_sample: int | None
    num_candidates: int
    ratio_start: str
    ratio_loss: str
    ratio_loss_weight: float
    freeze_threshold: float | None
    layer_freeze_share: float
    joint_codebook: bool
    scope: str
    optimizer: str
    soft_steps: int
    batch_size: int
    ratio_lr: float
    codebook_lr: float
    distill_steps: int
    distill_batch_size: int
    distill_lr: float
    num_trajectories: int
    trajectory_steps: int
    guidance_range: tuple[float, float]
    null_share: float
    pool_tokens: int

    def __post_init__(self) -> None:
        """Refuse settings that no stage can take."""
        for value, allowed, name in (
            (self.assignment_start, ASSIGNMENT_STARTS, "assignment start"),
            (self.ratio_start, RATIO_STARTS, "ratio start"),
            (self.ratio_loss, RATIO_LOSSES, "ratio loss"),
            (self.scope, SCOPES, "scope"),
            (self.optimizer, OPTIMIZERS, "optimizer"),
        ):
            if value not in allowed:
                raise OptionError(f"{name} {value!r} is unknown; needed one of {allowed}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError(f"recipe: {name} is {value}, needed at least {least}")
        if not 0 <= self.null_share <= 1:
            raise OptionError(f"null share is {self.null_share}, needed 0..1")

    @property
    def needs_trajectories(self) -> bool:
        """Whether any stage looks at the teacher's trajectories."""
        trains = self.soft_steps > 0 and self.num_candidates > 1
        return trains or self.distill_steps > 0 or self.assignment_start == "feedback"

    @property
    def block_steps(self) -> int:
        """Pieces of work that one block stands for in the progress of the blocks."""
        is_soft = self.scope == "block" and self.num_candidates > 1
        return max(self.soft_steps, 1) if is_soft else 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the artifact's metadata."""
        return asdict(self)


_PAPER = Recipe(
    name="paper",
    assignment_start="nearest",
    kmeans_iterations=20,
    kmeans_sample=None,
    num_candidates=2,
    ratio_start="uniform",
    ratio_loss="paper",
    ratio_loss_weight=1.0,
    freeze_threshold=None,
    layer_freeze_share=1.0,
    joint_codebook=True,
    scope="model",
    optimizer="rmsprop",
    soft_steps=500,
    batch_size=16,
    ratio_lr=5e-2,
    codebook_lr=1e-4,
    distill_steps=0,
    distill_batch_size=32,
    distill_lr=1e-3,
    num_trajectories=64,
    trajectory_steps=50,
    guidance_range=(4.0, 4.0),
    null_share=0.5,
    pool_tokens=8192,
)

_REFERENCE = replace(
    _PAPER,
    name="reference",
    ratio_start="inverse_distance",
    ratio_loss="reference",
    freeze_threshold=0.99,
    layer_freeze_share=0.99,
    joint_codebook=False,
    batch_size=8,
)

_VQ4DIT = Recipe(
    name="vq4dit",
    assignment_start="feedback",
    kmeans_iterations=12,
    kmeans_sample=16384,
    num_candidates=2,
    ratio_start="chosen",
    ratio_loss="reference",
    ratio_loss_weight=0.1,
    freeze_threshold=0.99,
    layer_freeze_share=0.99,
    joint_codebook=True,
    scope="block",
    optimizer="adam",
    soft_steps=80,
    batch_size=64,
    ratio_lr=0.1,
    codebook_lr=1e-3,
    distill_steps=200,
    distill_batch_size=64,
    distill_lr=1.5e-3,
    num_trajectories=128,
    trajectory_steps=25,
    guidance_range=(1.0, 4.0),
    null_share=0.5,
    pool_tokens=8192,
)

#: The uncalibrated baseline: nearest codeword of a plain K-Means codebook. 131,072 sub-vectors are
#: 512 per codeword: a codeword's mean is then uncertain by 1/sqrt(512) of its cluster's spread,
#: which adds about 1/512 to the squared error, below what another seed changes.
_KMEANS = replace(_PAPER, name="kmeans", num_candidates=1, soft_steps=0, kmeans_sample=512 * 256)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (_VQ4DIT, _PAPER, _REFERENCE, _KMEANS)
}


def recipe_by_name(name: str) -> Recipe:
    """A named recipe; OptionError for an unknown name."""
    if name not in RECIPES:
        raise OptionError(f"recipe {name!r} is unknown; needed one of {', '.join(RECIPES)}")
    return RECIPES[name]
