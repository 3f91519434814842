"""The demonstration model, part of the package: a small latent DiT of Fashion-MNIST pictures.

It has the architecture and the tensor names of the public DiT checkpoints (hidden 256, depth 8,
patch 2, latents 4x8x8, 10 classes), an AutoencoderKL, and a classifier whose features the Fréchet
distance is measured in. `vq4dit.demo.train` made all of it. Importing this module loads nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from vq4dit.errors import ArtifactError

#: Names of the data files, as `vq4dit.demo.train` writes them.
CHECKPOINT_NAME = "dit.safetensors"
CONFIG_NAME = "config.json"
VAE_NAME = "vae"
CLASSIFIER_NAME = "classifier.safetensors"
REFERENCE_NAME = "reference_features.safetensors"


def checkpoint_path() -> Path:
    """The DiT's weights: safetensors, float16, public tensor names."""
    return _data_path(CHECKPOINT_NAME)


def vae_path() -> Path:
    """The folder of the AutoencoderKL, as diffusers writes it: pictures 1x32x32, codes 4x8x8."""
    return _data_path(VAE_NAME)


def classifier_path() -> Path:
    """The metric classifier's weights, float16 (`vq4dit.demo.classifier`)."""
    return _data_path(CLASSIFIER_NAME)


def config() -> dict[str, Any]:
    """Parsed config.json: "model", "latent_scaling_factor", "class_names", "training_steps"."""
    values: dict[str, Any] = json.loads(_data_path(CONFIG_NAME).read_text(encoding="utf-8"))
    return values


def label_names() -> tuple[str, ...]:
    """Names of the ten classes, in the order of the labels."""
    return tuple(config()["class_names"])


def reference_statistics() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (128) and covariance (128, 128) of the classifier's features of the 10,000 test images.

    The covariance is the unbiased one (divisor N - 1).
    """
    tensors = load_file(_data_path(REFERENCE_NAME))
    return tensors["mean"], tensors["covariance"]


def _data_path(name: str) -> Path:
    """Path of a data file or folder beside this module."""
    path = Path(__file__).resolve().parent / name
    if not path.exists():
        raise ArtifactError(
            f"{path}: the demonstration model's data is not there; install vq4dit again, or train "
            "it with `python -m vq4dit.demo.train`"
        )
    return path
