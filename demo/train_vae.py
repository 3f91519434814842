"""Stage 2 of the demonstration model: the AutoencoderKL, and the training set as latents.

Loss: L1 + L2 + a weak Kullback-Leibler term + the metric classifier's feature distance, the last in
the place of the perceptual loss of Rombach et al. 2022 (arXiv 2112.10752), section 3.1.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vq4dit.calibrate.artifact import write_safetensors

from . import CLASSIFIER_NAME, VAE_NAME
from .classifier import Classifier, load_classifier
from .data import load_split, pad
from .schedules import set_learning_rate, shuffled_batches, warm_up_then_cosine
from .train_classifier import half_precision

logger = logging.getLogger(__name__)

#: The training set's posteriors, for the next stage: mean and log variance (N, 4, 8, 8), factor.
LATENTS_NAME = "latents.safetensors"

_BORDER = slice(2, 30)  # the 28x28 picture inside 32x32


@dataclass(frozen=True, kw_only=True)
class VaeTraining:
    """Settings of this stage; the packaged weights come of the defaults."""

    steps: int = 2053
    batch_size: int = 48
    learning_rate: float = 2.5e-3
    warm_up: int = 50
    divergence_weight: float = 2e-3
    feature_weight: float = 0.02
    max_gradient_norm: float = 1.0
    seed: int = 0


def make_vae() -> Any:
    """The small AutoencoderKL: (N, 1, 32, 32) <-> (N, 4, 8, 8), untrained."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        mid_block_add_attention=False,
    )


def train_vae(data: Path, output: Path, settings: VaeTraining) -> None:
    """Train, then write vae/ and the latents of the training set.

    Args:
        data: folder of the four idx.gz files.
        output: folder with classifier.safetensors; gets vae/ and latents.safetensors.
        settings: length and rates of the training.
    """
    torch.manual_seed(settings.seed)
    pictures, _ = load_split(data, "train")
    classifier = load_classifier(output / CLASSIFIER_NAME)
    model = make_vae()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0)
    batches = shuffled_batches(len(pictures), settings.batch_size)
    for step, batch in enumerate(islice(batches, settings.steps)):
        fraction = warm_up_then_cosine(step, settings.steps, warm_up=settings.warm_up)
        set_learning_rate(optimizer, settings.learning_rate * fraction)
        loss = _loss(model, classifier, pad(pictures[batch]), settings)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
        optimizer.step()
        if (step + 1) % 100 == 0:
            logger.info("vae: step %d of %d, loss %.4f", step + 1, settings.steps, loss)
    _write(model.eval(), pictures, output)


def _loss(
    model: Any, classifier: Classifier, pictures: Tensor, settings: VaeTraining
) -> Tensor:  # fmt: skip
    """Loss of one batch (N, 1, 32, 32), a scalar."""
    posterior = model.encode(pictures).latent_dist
    decoded = model.decode(posterior.sample()).sample
    difference = decoded - pictures
    num_latents = posterior.mean[0].numel()
    divergence = posterior.kl().mean() / num_latents
    features = classifier(decoded[:, :, _BORDER, _BORDER])[1]
    wanted = classifier(pictures[:, :, _BORDER, _BORDER])[1]
    return (
        difference.abs().mean()
        + difference.square().mean()
        + settings.divergence_weight * divergence
        + settings.feature_weight * (features - wanted).square().mean()
    )


def _write(model: Any, pictures: Tensor, output: Path) -> None:
    """Write the VAE in float16 with its scaling factor, and the posteriors of the training set."""
    with torch.no_grad():
        parts = [model.quant_conv(model.encoder(pad(batch))) for batch in pictures.split(500)]
    mean, log_variance = torch.cat(parts).chunk(2, dim=1)  # each (N, 4, 8, 8)
    factor = 1 / mean.std().item()
    model.register_to_config(scaling_factor=factor)
    model.save_config(output / VAE_NAME)
    write_safetensors(
        output / VAE_NAME / "diffusion_pytorch_model.safetensors",
        half_precision(model),
        {"format": "pt"},
    )
    latents = {
        "mean": mean.half().numpy(),
        "log_variance": log_variance.clamp(-30, 4).half().numpy(),
    }
    write_safetensors(output / LATENTS_NAME, latents, {"scaling_factor": repr(factor)})
    logger.info("vae: scaling factor %.4f", factor)
