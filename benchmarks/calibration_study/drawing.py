"""Draw with some weights: an engine that is built for it and deleted afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vq4dit.atomic_file import atomic_path
from vq4dit.engines.build import build_engine
from vq4dit.engines.manifest import load_manifest
from vq4dit.evaluation import Classify, EvaluationSettings, Samples, draw, metric_classifier
from vq4dit.weight_source import WeightSource


def draw_with(
    weights: WeightSource,
    engine: Path,
    labels: NDArray[np.int64],
    settings: EvaluationSettings,
    *,
    vae: Path,
    target: str = "cpu",
) -> tuple[Samples, Classify | None]:
    """Build an engine, draw a picture for each label, delete the engine.

    Args:
        weights: what it is built from.
        engine: a folder that does not exist yet; its name without the ending is the model's.
        labels: (N,), in order.
        settings: steps, threads and so on.
        vae: folder of the AutoencoderKL.
        target: of the engine.
    Returns:
        What was drawn, and the metric classifier where the model has one.
    """
    try:
        build_engine(weights, engine, target=target, vae=vae, cfg_channels=None)
        samples = draw(engine.stem, engine, labels, settings)
        return samples, metric_classifier(load_manifest(engine))
    finally:
        shutil.rmtree(engine, ignore_errors=True)


def save_latents(path: Path, samples: Samples) -> None:
    """Keep what full precision drew, for the models that are compared with it."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, samples.latents)
