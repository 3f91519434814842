"""Stage 1 of the demonstration model: the metric classifier and the reference statistics."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vq4dit.calibrate.artifact import write_safetensors
from vq4dit.metrics import feature_statistics, label_accuracy

from . import CLASSIFIER_NAME, REFERENCE_NAME
from .classifier import Classifier, classify, load_classifier
from .data import load_split, to_range
from .schedules import set_learning_rate, shuffled_batches, warm_up_then_cosine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    """Settings of this stage; the packaged weights were trained for about as long."""

    steps: int = 4000
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.05
    warm_up: int = 50
    seed: int = 0


def train_classifier(data: Path, output: Path, settings: ClassifierTraining) -> None:
    """Train, then write the weights and the statistics of the test images' features.

    Args:
        data: folder of the four idx.gz files.
        output: folder that gets classifier.safetensors and reference_features.safetensors.
        settings: length and rates of the training.
    """
    torch.manual_seed(settings.seed)
    pictures, labels = load_split(data, "train")
    model = Classifier()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    batches = shuffled_batches(len(pictures), settings.batch_size)
    for step, batch in enumerate(islice(batches, settings.steps)):
        fraction = warm_up_then_cosine(step, settings.steps, warm_up=settings.warm_up)
        set_learning_rate(optimizer, settings.learning_rate * fraction)
        logits, _ = model(_maybe_mirrored(to_range(pictures[batch])))
        loss = F.cross_entropy(logits, labels[batch], label_smoothing=settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 200 == 0:
            logger.info("classifier: step %d of %d, loss %.4f", step + 1, settings.steps, loss)
    write_safetensors(output / CLASSIFIER_NAME, half_precision(model), {})
    _write_reference(data, output)


def half_precision(model: nn.Module) -> dict[str, np.ndarray]:
    """State dict with floating tensors in float16, counters as they are."""
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous().numpy()
        for name, value in model.state_dict().items()
    }


def _write_reference(data: Path, output: Path) -> None:
    """Statistics by the classifier as it is stored, so that they fit what users load."""
    pictures, labels = load_split(data, "test")
    model = load_classifier(output / CLASSIFIER_NAME)
    predicted, features = classify(model, pictures[:, 0].numpy())
    mean, covariance = feature_statistics(features)
    write_safetensors(
        output / REFERENCE_NAME,
        {"mean": mean, "covariance": covariance},
        {"num_images": str(len(pictures))},
    )
    logger.info("classifier: test accuracy %.4f", label_accuracy(predicted, labels.numpy()))


def _maybe_mirrored(pictures: Tensor) -> Tensor:
    """Mirror the batch left to right half of the times."""
    return pictures.flip(3) if torch.rand(()) < 0.5 else pictures
