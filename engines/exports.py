"""Export the step model and the decoder for a target, and check the files."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from vq4dit.errors import ArtifactError
from vq4dit.weight_source import WeightSource

from .targets import Target

_log = logging.getLogger(__name__)


def export_step(
    source: WeightSource,
    folder: Path,
    target: Target,
    *,
    weights: str,
    cfg: bool,
    cfg_channels: int | None,
) -> int:
    """Write and check step.onnx and its data; returns the number of guided channels."""
    from vq4dit.export.check import check_model
    from vq4dit.export.step import build_step_model

    model = build_step_model(
        source,
        folder,
        form=target.form,
        cfg=cfg,
        cfg_channels=cfg_channels,
        assignment_layout=target.assignment_layout,
        weights=weights,
    )
    check_model(model.path)
    return model.cfg_channels if cfg else 0


def export_decoder(vae: Path, folder: Path, source: WeightSource, *, weights: str) -> None:
    """Write and check decoder.onnx and its data; the weights' own scaling factor counts."""
    from vq4dit.export.check import check_model
    from vq4dit.export.decoder import build_decoder_model
    from vq4dit.export.vae_folder import VaeFolder

    with VaeFolder(vae) as opened:
        channels, factor = opened.config.latent_channels, opened.config.scaling_factor
    if channels != source.config.in_channels:
        raise ArtifactError(
            f"{vae}: the VAE has {channels} latent channels, the model "
            f"{source.config.in_channels}; "
            "give the VAE that the model was trained with"
        )
    if not math.isclose(factor, source.latent_scaling_factor, rel_tol=1e-4):
        _log.warning(
            "the weights say that latents are scaled by %g, the VAE in %s says %g; using the first",
            source.latent_scaling_factor, vae, factor,
        )  # fmt: skip
    model = build_decoder_model(
        vae,
        folder,
        latent_size=source.config.input_size,
        scaling_factor=source.latent_scaling_factor,
        weights=weights,
    )
    check_model(model.path)
