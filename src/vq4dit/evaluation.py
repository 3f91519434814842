"""Compares quantized engines with the full-precision one: same labels, same noise, DDIM.

Needs only what an engine needs; the picture metrics also need torch and a metric classifier, which
there is for the demonstration model alone. For other models they are None.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import demo
from .engines.manifest import Manifest, load_manifest
from .errors import OptionError
from .metrics import (
    diversity,
    feature_statistics,
    frechet_distance,
    label_accuracy,
    relative_latent_error,
)
from .runtime.pipeline import Pipeline
from .runtime.step_report import StepReport

logger = logging.getLogger(__name__)

#: Name of the full-precision engine in every report.
REFERENCE_NAME = "fp"

#: Bits per weight from which on a linear counts as dense.
_DENSE_BITS = 16

#: Called after every step: engine's name, steps done, steps in all of this engine.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is drawn and how.

    Args:
        num_images: pictures per engine, at least 2.
        steps: DDIM steps.
        cfg_scale: guidance weight.
        seed: of the noise.
        batch_size: samples of one step.
        threads: of one step, None for ONNX Runtime's choice.
        accuracy: "fast" or "exact" kernels.
    """

    num_images: int = 500
    steps: int = 20
    cfg_scale: float = 2.0
    seed: int = 0
    batch_size: int = 25
    threads: int | None = None
    accuracy: str = "fast"


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics of one engine (`vq4dit.metrics` has the formulas); None where not measurable."""

    frechet_distance: float | None
    relative_latent_error: float
    diversity: float
    label_accuracy: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """What one engine drew: latents (N, C, H, W), pictures (N, H, W, C) or None, seconds."""

    latents: NDArray[np.float32]
    pictures: NDArray[np.uint8] | None
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Metrics and samples by engine name, `REFERENCE_NAME` first."""

    settings: EvaluationSettings
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    metrics: dict[str, Metrics]
    samples: dict[str, Samples]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: metrics by name, num_images, steps, seconds, other settings."""
        settings = asdict(self.settings)
        return {
            **{name: asdict(metrics) for name, metrics in self.metrics.items()},
            "num_images": settings.pop("num_images"),
            "steps": settings.pop("steps"),
            "seconds": {f"sampling_{name}": drawn.seconds for name, drawn in self.samples.items()},
            "settings": {"sampler": "ddim", **settings},
        }


def evaluate(
    reference: Path,
    engines: Mapping[str, Path],
    settings: EvaluationSettings,
    progress: Progress | None = None,
) -> Evaluation:
    """Draw with every engine and compare.

    Args:
        reference: engine directory of the full-precision model.
        engines: name -> engine directory; the names of the report.
        settings: what is drawn.
        progress: told of every step.
    Raises:
        OptionError: a setting is out of range, or an engine is for another model.
        ArtifactError: an engine directory is damaged.
    """
    if settings.num_images < 2:
        raise OptionError(f"num_images is {settings.num_images}, needed at least 2")
    manifest = load_manifest(reference)
    for name, directory in engines.items():
        _check_comparable(name, load_manifest(directory), manifest)
    if min(manifest.bits_per_weight.values(), default=_DENSE_BITS) < _DENSE_BITS:
        logger.warning("%s is itself quantized; the metrics are relative to it", reference)
    labels = balanced_labels(settings.num_images, manifest.model.num_classes)
    directories = {REFERENCE_NAME: reference, **engines}
    samples = {
        name: draw(name, directory, labels, settings, progress)
        for name, directory in directories.items()
    }
    classify = metric_classifier(manifest)
    return Evaluation(
        settings=settings,
        labels=labels,
        label_names=manifest.label_names,
        metrics={
            name: measure(drawn, samples[REFERENCE_NAME], labels, classify)
            for name, drawn in samples.items()
        },
        samples=samples,
    )


def balanced_labels(num_images: int, num_classes: int) -> NDArray[np.int64]:
    """Labels (N,) in turn: index % num_classes.

    With fewer than two pictures per class, so many classes as have two, spread over all of them:
    the diversity needs two.
    """
    num_used = min(num_classes, num_images // 2)
    return (np.arange(num_images, dtype=np.int64) % num_used) * num_classes // num_used


def draw(
    name: str,
    directory: Path,
    labels: NDArray[np.int64],
    settings: EvaluationSettings,
    progress: Progress | None = None,
) -> Samples:
    """Draw one picture per label with one engine; latents only where it has no decoder."""
    latents: list[NDArray[np.float32]] = []

    def on_step(report: StepReport) -> None:
        if report.step == settings.steps - 1:  # the batch is finished
            latents.append(report.latents.copy())
        if progress is not None:
            progress(name, report.done, report.total)

    with Pipeline(directory, accuracy=settings.accuracy, threads=settings.threads) as pipeline:
        has_pictures = "decoder" in pipeline.manifest.files
        start = time.perf_counter()
        result = pipeline(
            labels,
            steps=settings.steps,
            cfg_scale=settings.cfg_scale,
            sampler="ddim",
            seed=settings.seed,
            batch_size=settings.batch_size,
            output="uint8" if has_pictures else "latent",
            callback=on_step,
        )
        seconds = time.perf_counter() - start
    return Samples(
        latents=np.concatenate(latents),
        pictures=result if has_pictures else None,
        seconds=seconds,
    )


#: Pictures (N, H, W, C) uint8 -> labels (N,), features (N, F).
Classify = Callable[[NDArray[np.uint8]], tuple[NDArray[np.intp], NDArray[np.float64]]]


def metric_classifier(manifest: Manifest) -> Classify | None:
    """The metric classifier for a model; None, and a word to the log, where there is none."""
    if manifest.label_names != demo.label_names() or manifest.image_shape[0] != 1:
        logger.info(
            "no metric classifier for this model: Fréchet distance and label accuracy are left out"
        )
        return None
    if find_spec("torch") is None:
        logger.warning(
            "torch is not installed: Fréchet distance and label accuracy are left out; "
            "pip install 'vq4dit[calibrate]'"
        )
        return None
    from .demo.classifier import classify, load_classifier

    model = load_classifier()
    return lambda pictures: classify(model, pictures)


def measure(
    samples: Samples,
    reference: Samples,
    labels: NDArray[np.int64],
    classify: Classify | None = None,
) -> Metrics:
    """Metrics of what one engine drew, against the reference's samples of the same labels."""
    distance = accuracy = None
    if classify is not None and samples.pictures is not None:
        predicted, features = classify(samples.pictures)
        distance = frechet_distance(*feature_statistics(features), *demo.reference_statistics())
        accuracy = label_accuracy(predicted, labels)
    return Metrics(
        frechet_distance=distance,
        relative_latent_error=relative_latent_error(samples.latents, reference.latents),
        diversity=diversity(samples.latents, reference.latents, labels),
        label_accuracy=accuracy,
    )


def _check_comparable(name: str, found: Manifest, needed: Manifest) -> None:
    """Engines can be compared when they run one model with one kind of guidance."""
    for key in ("model", "label_names", "schedule", "cfg", "cfg_channels", "latent_scaling_factor"):
        if getattr(found, key) != getattr(needed, key):
            raise OptionError(
                f"engine {name!r} cannot be compared with the reference: {key} is "
                f"{getattr(found, key)}, the reference has {getattr(needed, key)}; "
                "build both from one model with equal options"
            )
