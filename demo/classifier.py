"""The metric classifier: a small convolutional network whose 128 features the metrics use.

It plays the part that Inception has in the usual Fréchet distance (Heusel et al. 2017), at the size
of 28x28 pictures. Only for comparing variants of the demonstration model with each other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from . import classifier_path

#: Height and width of the classifier's input; generated pictures are 32x32 with a border of 2.
PICTURE_SIZE = 28

#: Width of the feature layer.
FEATURE_SIZE = 128


class Classifier(nn.Module):
    """Three convolutions, a feature layer, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(1, 24),  # (N, 24, 14, 14)
            *_convolution(24, 48),  # (N, 48, 7, 7)
            *_convolution(48, 96),  # (N, 96, 3, 3)
            nn.Flatten(),
            nn.Linear(96 * 3 * 3, FEATURE_SIZE),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURE_SIZE, 10)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (N, 1, 28, 28) in [-1, 1] -> logits (N, 10), features (N, 128)."""
        features = self.features(pictures)
        return self.head(features), features


def load_classifier(path: Path | None = None) -> Classifier:
    """The trained classifier in evaluation mode, float32; from the package's data by default."""
    model = Classifier()
    tensors = load_file(path or classifier_path())
    model.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    )
    model.eval().requires_grad_(False)
    return model


def classify(
    model: Classifier, pictures: NDArray[np.uint8], *, batch_size: int = 500
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Classify 8-bit pictures.

    Args:
        model: a classifier in evaluation mode.
        pictures: (N, H, W) or (N, H, W, 1) uint8, H and W at least 28; the centre is used.
        batch_size: pictures per call of the model.
    Returns:
        labels (N,) and features (N, 128).
    """
    centre = torch.from_numpy(np.ascontiguousarray(_centre(pictures)))[:, None]
    labels, features = [], []
    with torch.no_grad():
        for batch in centre.split(batch_size):
            logits, feature = model(batch.float() / 127.5 - 1)
            labels.append(logits.argmax(1).numpy())
            features.append(feature.double().numpy())
    return np.concatenate(labels), np.concatenate(features)


def _convolution(in_channels: int, out_channels: int) -> list[nn.Module]:
    """A 3x3 convolution that halves height and width."""
    return [
        nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]


def _centre(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, H, W) or (N, H, W, 1) -> (N, 28, 28)."""
    if pictures.ndim == 4 and pictures.shape[3] == 1:
        pictures = pictures[..., 0]
    if pictures.ndim != 3 or min(pictures.shape[1:]) < PICTURE_SIZE or pictures.dtype != np.uint8:
        raise ValueError(
            f"pictures have shape {pictures.shape} and dtype {pictures.dtype}, needed "
            f"(N, H, W) or (N, H, W, 1) uint8 with H and W at least {PICTURE_SIZE}"
        )
    top, left = ((n - PICTURE_SIZE) // 2 for n in pictures.shape[1:])
    return pictures[:, top : top + PICTURE_SIZE, left : left + PICTURE_SIZE]
