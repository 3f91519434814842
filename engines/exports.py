"""Export the step model and the decoder for a target, and check the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vq4dit.errors import OptionError
from vq4dit.model_config import ModelConfig
from vq4dit.weight_source import WeightSource

from .targets import Target

if TYPE_CHECKING:
    from vq4dit.export.linear_ways import ChooseWay
    from vq4dit.export.step import StepModel

#: Smallest tile of a latent that is worth decoding alone: tiles overlap by a quarter.
MIN_TILE = 4


def export_step(
    source: WeightSource,
    folder: Path,
    target: Target,
    *,
    weights: str,
    cfg: bool,
    cfg_channels: int | None,
    choose_way: ChooseWay | None = None,
) -> StepModel:
    """Write and check step.onnx and its data."""
    from vq4dit.export.check import check_model
    from vq4dit.export.step import build_step_model

    model = build_step_model(
        source,
        folder,
        form=target.form,
        cfg=cfg,
        cfg_channels=cfg_channels,
        assignment_layout=target.assignment_layout,
        fuse_adaln=target.fuse_adaln,
        fuse_attention=target.fuse_attention,
        weights=weights,
        choose_way=choose_way,
    )
    check_model(model.path)
    return model


@dataclass(frozen=True, kw_only=True)
class Vae:
    """Where an engine's decoder comes from.

    Args:
        path: diffusers folder or safetensors file of an AutoencoderKL or AutoencoderTiny.
        tile_size: H and W of the latents that the decoder takes, None for whole latents.
    """

    path: Path
    tile_size: int | None = None

    def latent_size(self, config: ModelConfig) -> int:
        """H and W of the latents that the decoder takes."""
        return self.tile_size or config.input_size

    def check(self, config: ModelConfig) -> None:
        """Raise OptionError if a latent of this model has no such tiles."""
        if self.tile_size is not None and not MIN_TILE <= self.tile_size < config.input_size:
            raise OptionError(
                f"the decoder's tile is {self.tile_size}, needed {MIN_TILE}.."
                f"{config.input_size - 1} for latents of {config.input_size} x "
                f"{config.input_size}; leave it out to decode them whole"
            )


def export_decoder(vae: Vae, folder: Path, source: WeightSource, *, weights: str) -> None:
    """Write and check decoder.onnx and its data; the weights' own scaling factor counts."""
    from vq4dit.export.check import check_model
    from vq4dit.export.decoder import build_decoder_model

    model = build_decoder_model(
        vae.path,
        folder,
        latent_size=vae.latent_size(source.config),
        latent_channels=source.config.in_channels,
        scaling_factor=source.latent_scaling_factor,
        weights=weights,
    )
    check_model(model.path)
