"""Sizes of a VAE's decoder, from a diffusers config.json or from the tensors of a single file.

Names and defaults are those of AutoencoderKL and AutoencoderTiny. Everything is checked before use.
Does not know ONNX.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vq4dit.errors import ArtifactError

_MAX_SIZE = 1 << 16
_MAX_STAGES = 16

#: Scaling factor of the Stable Diffusion VAE, which DiT was trained with; latents have 4 channels.
_SD_SCALING_FACTOR = 0.18215
_SD_LATENT_CHANNELS = 4
_SD_NORM_GROUPS = 32


@dataclass(frozen=True, kw_only=True)
class KlConfig:
    """What the graph of AutoencoderKL's decoder follows from."""

    latent_channels: int = 4
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    use_post_quant_conv: bool = True
    scaling_factor: float = _SD_SCALING_FACTOR
    shift_factor: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """What the graph of AutoencoderTiny's decoder follows from.

    `block_out_channels` and `num_blocks` go from the latent's resolution to the picture's.
    `scaling_factor` is 1: it takes latents as the sampler makes them, already scaled.
    """

    latent_channels: int = 4
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    num_blocks: tuple[int, ...] = (3, 3, 3, 1)
    upsampling_scaling_factor: int = 2
    scaling_factor: float = 1.0
    shift_factor: float = 0.0


VaeConfig = KlConfig | TinyConfig

Shapes = Mapping[str, tuple[int, ...]]


def read_config(path: Path) -> VaeConfig:
    """Parse and check config.json; ArtifactError names what does not fit."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ArtifactError(f"{path}: found {type(values).__name__}, needed an object")
    kind = values.get("_class_name", "AutoencoderKL")
    if kind == "AutoencoderTiny":
        return _tiny_config(path, values)
    if kind == "AutoencoderKL":
        return _kl_config(path, values)
    raise ArtifactError(
        f"{path}: _class_name is {kind!r}, needed 'AutoencoderKL' or 'AutoencoderTiny'"
    )


def kl_config_from_shapes(path: Path, shapes: Shapes) -> KlConfig:
    """Configuration of an AutoencoderKL from its tensors (diffusers' names).

    What they do not tell is taken from Stable Diffusion's VAE: 32 groups, scaling factor 0.18215.

    Raises:
        ArtifactError: a tensor is missing, or the latent has not Stable Diffusion's 4 channels.
    """
    pattern = re.compile(r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight")
    found = [pattern.fullmatch(name) for name in shapes]
    blocks = sorted({(int(m[1]), int(m[2])) for m in found if m})
    num_stages = blocks[-1][0] + 1 if blocks else 0
    names = [f"decoder.up_blocks.{i}.resnets.0.conv1.weight" for i in range(num_stages)]
    for name in ("decoder.conv_in.weight", "decoder.conv_out.weight", *names):
        if len(shapes.get(name, ())) != 4:
            raise ArtifactError(f"{path}: tensor {name} is missing or no convolution; not a VAE")
    if not 0 < num_stages <= _MAX_STAGES:
        raise ArtifactError(f"{path}: has {num_stages} decoder.up_blocks, needed 1..{_MAX_STAGES}")
    conv_in, conv_out = shapes["decoder.conv_in.weight"], shapes["decoder.conv_out.weight"]
    if conv_in[1] != _SD_LATENT_CHANNELS:
        raise ArtifactError(
            f"{path}: its latents have {conv_in[1]} channels, and a single file does not tell how "
            "they are scaled; give the diffusers folder with its config.json"
        )
    widths = [shapes[name][0] for name in names]
    if any(width % _SD_NORM_GROUPS for width in widths):
        raise ArtifactError(
            f"{path}: widths {widths} are not multiples of {_SD_NORM_GROUPS}, so the number of "
            "groups is unknown; give the diffusers folder with its config.json"
        )
    return KlConfig(
        latent_channels=conv_in[1],
        out_channels=conv_out[0],
        block_out_channels=tuple(reversed(widths)),
        layers_per_block=max(layer for _, layer in blocks),
        norm_num_groups=_SD_NORM_GROUPS,
        mid_block_add_attention="decoder.mid_block.attentions.0.to_q.weight" in shapes,
        use_post_quant_conv="post_quant_conv.weight" in shapes,
    )


def tiny_config_from_shapes(path: Path, shapes: Shapes) -> TinyConfig:
    """Configuration of an AutoencoderTiny from its tensors (diffusers' names).

    Raises:
        ArtifactError: the layers are not those of such a decoder.
    """
    prefix = "decoder.layers."
    numbers = [int(n.split(".")[2]) for n in shapes if re.match(r"decoder\.layers\.\d+\.", n)]
    widths, num_blocks, blocks = [], [], 0
    for index in range(2, max(numbers) + 1):
        if f"{prefix}{index}.conv.0.weight" in shapes:
            blocks += 1
        elif f"{prefix}{index}.weight" in shapes:
            widths.append(shapes[f"{prefix}{index}.weight"][1])
            num_blocks.append(blocks)
            blocks = 0
    first, last = shapes.get(f"{prefix}0.weight"), shapes.get(f"{prefix}{max(numbers)}.weight")
    if first is None or last is None or len(first) != 4 or not 0 < len(widths) <= _MAX_STAGES:
        raise ArtifactError(f"{path}: layers {sorted(set(numbers))} are not AutoencoderTiny's")
    return TinyConfig(
        latent_channels=first[1],
        out_channels=last[0],
        block_out_channels=tuple(widths),
        num_blocks=tuple(num_blocks),
    )


def _kl_config(path: Path, values: Mapping[str, Any]) -> KlConfig:
    channels = _sizes(path, "block_out_channels", values.get("block_out_channels", (64,)))
    _require(
        path,
        values,
        {
            "act_fn": "silu",
            "latents_mean": None,
            "latents_std": None,
            "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        },
    )
    groups = _integer(path, values, "norm_num_groups", 32)
    if any(width % groups for width in channels):
        raise ArtifactError(
            f"{path}: block_out_channels {list(channels)} are not multiples of "
            f"norm_num_groups {groups}"
        )
    return KlConfig(
        latent_channels=_integer(path, values, "latent_channels", 4),
        out_channels=_integer(path, values, "out_channels", 3),
        block_out_channels=channels,
        layers_per_block=_integer(path, values, "layers_per_block", 1),
        norm_num_groups=groups,
        mid_block_add_attention=values.get("mid_block_add_attention", True) is not False,
        use_post_quant_conv=values.get("use_post_quant_conv", True) is not False,
        scaling_factor=_scaling_factor(path, values, _SD_SCALING_FACTOR),
        shift_factor=_shift_factor(path, values),
    )


def _tiny_config(path: Path, values: Mapping[str, Any]) -> TinyConfig:
    default = TinyConfig()
    _require(path, values, {"act_fn": "relu", "upsample_fn": "nearest"})
    widths, blocks = (
        _sizes(path, key, values.get(key, fallback))
        for key, fallback in (
            ("decoder_block_out_channels", default.block_out_channels),
            ("num_decoder_blocks", default.num_blocks),
        )
    )
    if len(widths) != len(blocks) or len(set(widths)) != 1:
        raise ArtifactError(
            f"{path}: decoder_block_out_channels {list(widths)} and num_decoder_blocks "
            f"{list(blocks)}, needed lists of one length and one width, as the layers follow "
            "each other without a change of width"
        )
    return TinyConfig(
        latent_channels=_integer(path, values, "latent_channels", 4),
        out_channels=_integer(path, values, "out_channels", 3),
        block_out_channels=widths,
        num_blocks=blocks,
        upsampling_scaling_factor=_integer(path, values, "upsampling_scaling_factor", 2),
        scaling_factor=_scaling_factor(path, values, 1.0),
        shift_factor=_shift_factor(path, values),
    )


def _require(path: Path, values: Mapping[str, Any], needed: Mapping[str, Any]) -> None:
    """Refuse what the decoder's graph does not cover; what is absent has the needed value."""
    for key, wanted in needed.items():
        found = values.get(key, wanted)
        if found != wanted:
            raise ArtifactError(f"{path}: {key} is {found!r}, needed {wanted!r}")


def _scaling_factor(path: Path, values: Mapping[str, Any], default: float) -> float:
    value = _number(path, values, "scaling_factor", default)
    if value == 0:
        raise ArtifactError(f"{path}: scaling_factor is 0, needed another number")
    return value


def _shift_factor(path: Path, values: Mapping[str, Any]) -> float:
    absent = values.get("shift_factor") is None
    return 0.0 if absent else _number(path, values, "shift_factor", 0.0)


def _sizes(path: Path, key: str, value: Any) -> tuple[int, ...]:
    """A short list of positive integers."""
    is_list = isinstance(value, Sequence) and 0 < len(value) <= _MAX_STAGES
    if not is_list or not all(type(size) is int and 0 < size <= _MAX_SIZE for size in value):
        raise ArtifactError(f"{path}: {key} is {value!r}, needed a list of integers")
    return tuple(value)


def _integer(path: Path, values: Mapping[str, Any], key: str, default: int) -> int:
    """A positive integer of the configuration."""
    value = values.get(key, default)
    if type(value) is not int or not 0 < value <= _MAX_SIZE:
        raise ArtifactError(f"{path}: {key} is {value!r}, needed an integer in 1..{_MAX_SIZE}")
    return value


def _number(path: Path, values: Mapping[str, Any], key: str, default: float) -> float:
    """A finite number of the configuration."""
    value = values.get(key, default)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ArtifactError(f"{path}: {key} is {value!r}, needed a finite number")
    return float(value)
