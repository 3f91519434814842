"""Read the folder of a diffusers AutoencoderKL: its configuration and its decoder's tensors.

Everything is checked before use. Does not know ONNX.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from vq4dit.errors import ArtifactError

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"

#: Names of the attention's linears in folders written before diffusers 0.18.
_OLD_ATTENTION_NAMES = {
    ".to_q.": ".query.",
    ".to_k.": ".key.",
    ".to_v.": ".value.",
    ".to_out.0.": ".proj_attn.",
}

_MAX_SIZE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """What the decoder's graph follows from; names and defaults of AutoencoderKL."""

    latent_channels: int = 4
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    use_post_quant_conv: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float | None = None


class VaeFolder:
    """An AutoencoderKL folder, open for reading tensor by tensor; a context manager.

    Raises:
        ArtifactError: a file is missing or damaged, or the VAE is of a kind that is not supported.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = _read_config(path / CONFIG_NAME)
        self._weights_path = path / WEIGHTS_NAME
        if not self._weights_path.is_file():
            raise ArtifactError(f"{self._weights_path}: no such file; needed the VAE's weights")
        try:
            self._file = cast(Any, safe_open(self._weights_path, framework="numpy"))
            self._names: frozenset[str] = frozenset(self._file.keys())
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{self._weights_path}: not a safetensors file: {error}") from None

    def __enter__(self) -> VaeFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A tensor of the state dict as float32.

        The attention's linears are found under their old names too, also as 1x1 convolutions.

        Raises:
            ArtifactError: missing, misshaped, not float16 or float32, or not finite.
        """
        stored = self._stored_name(name)
        try:
            array: NDArray[Any] = self._file.get_tensor(stored)
        except (SafetensorError, TypeError, ValueError) as error:
            raise ArtifactError(f"{self._weights_path}: tensor {stored}: {error}") from None
        if array.dtype not in (np.float16, np.float32):
            raise ArtifactError(
                f"{self._weights_path}: tensor {stored} has dtype {array.dtype}, "
                "needed float16 or float32"
            )
        found = array.shape[:2] if array.shape[2:] == (1, 1) and len(shape) == 2 else array.shape
        if found != shape:
            raise ArtifactError(
                f"{self._weights_path}: tensor {stored} has shape {array.shape}, needed {shape}"
            )
        if not np.isfinite(array).all():
            raise ArtifactError(f"{self._weights_path}: tensor {stored} has a value not finite")
        return array.reshape(shape).astype(np.float32)

    def _stored_name(self, name: str) -> str:
        """The name in the file: today's, or the old one of an attention."""
        if name in self._names:
            return name
        for new, old in _OLD_ATTENTION_NAMES.items():
            if new in name and name.replace(new, old) in self._names:
                return name.replace(new, old)
        raise ArtifactError(f"{self._weights_path}: tensor {name} is missing")


def _read_config(path: Path) -> VaeConfig:
    """Parse and check config.json."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ArtifactError(f"{path}: found {type(values).__name__}, needed an object")
    _check_kind(path, values)
    channels = _channels(path, values.get("block_out_channels", (64,)))
    groups = _integer(path, values, "norm_num_groups", 32)
    if any(width % groups for width in channels):
        raise ArtifactError(
            f"{path}: block_out_channels {list(channels)} are not multiples of "
            f"norm_num_groups {groups}"
        )
    scaling_factor = _number(path, values, "scaling_factor", 0.18215)
    if scaling_factor == 0:
        raise ArtifactError(f"{path}: scaling_factor is 0, needed another number")
    shift = values.get("shift_factor")
    return VaeConfig(
        latent_channels=_integer(path, values, "latent_channels", 4),
        out_channels=_integer(path, values, "out_channels", 3),
        block_out_channels=channels,
        layers_per_block=_integer(path, values, "layers_per_block", 1),
        norm_num_groups=groups,
        mid_block_add_attention=values.get("mid_block_add_attention", True) is not False,
        use_post_quant_conv=values.get("use_post_quant_conv", True) is not False,
        scaling_factor=scaling_factor,
        shift_factor=None if shift is None else _number(path, values, "shift_factor", 0.0),
    )


def _check_kind(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse what the decoder's graph does not cover."""
    blocks = values.get("up_block_types", ["UpDecoderBlock2D"])
    channels = values.get("block_out_channels", [64])
    needed: dict[str, tuple[Any, Any]] = {
        "_class_name": ("AutoencoderKL", values.get("_class_name", "AutoencoderKL")),
        "act_fn": ("silu", values.get("act_fn", "silu")),
        "latents_mean": (None, values.get("latents_mean")),
        "latents_std": (None, values.get("latents_std")),
    }
    if isinstance(channels, list):
        needed["up_block_types"] = (["UpDecoderBlock2D"] * len(channels), blocks)
    for key, (wanted, found) in needed.items():
        if found != wanted:
            raise ArtifactError(f"{path}: {key} is {found!r}, needed {wanted!r}")


def _channels(path: Path, value: Any) -> tuple[int, ...]:
    """The widths of the blocks."""
    is_list = isinstance(value, (list, tuple)) and 0 < len(value) <= 16
    if not is_list or not all(type(width) is int and 0 < width <= _MAX_SIZE for width in value):
        raise ArtifactError(f"{path}: block_out_channels is {value!r}, needed a list of integers")
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
