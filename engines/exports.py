"""Export the step model and the decoder for a target, and check the files."""

from __future__ import annotations

from pathlib import Path

from vq4dit.weight_source import WeightSource

from .targets import Target


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

    model = build_decoder_model(
        vae,
        folder,
        latent_size=source.config.input_size,
        latent_channels=source.config.in_channels,
        scaling_factor=source.latent_scaling_factor,
        weights=weights,
    )
    check_model(model.path)
