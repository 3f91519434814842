"""Read and verify a full-precision DiT checkpoint, tensor by tensor.

Takes `.pt` (a flat state dict, or one under the key "ema"; nothing but tensors is ever unpickled)
and `.safetensors` in the facebookresearch layout, and diffusers folders, which
`calibrate.diffusers_folder` brings into that layout. The configuration follows from the tensors'
shapes; only the number of heads needs a known width, the file's own metadata or an option.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vq4dit.errors import ArtifactError, OptionError
from vq4dit.model_config import PRESETS, ModelConfig
from vq4dit.plugins.layer import QuantizedLayer

from .artifact_info import METADATA_KEY, check_labels
from .diffusers_folder import read_diffusers_folder
from .safetensors_file import sha256_of_file
from .tensor_files import StoredTensor, open_tensor_file

#: Scaling of the public checkpoints' VAE (stabilityai/sd-vae-ft-*), used where a file tells none.
DEFAULT_LATENT_SCALING_FACTOR = 0.18215

_HEADS_BY_HIDDEN_SIZE = {config.hidden_size: config.num_heads for config in PRESETS.values()}


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """What a caller knows of a checkpoint and wants checked against the file; None = not told.

    `model` is a preset's name such as "DiT-XL/2"; `input_size` the latent's height and width.
    """

    model: str | None = None
    input_size: int | None = None
    num_heads: int | None = None
    label_names: tuple[str, ...] = ()
    latent_scaling_factor: float | None = None


class Checkpoint:
    """A checked full-precision checkpoint. Implements `vq4dit.weight_source.WeightSource`."""

    def __init__(self, path: str | Path, options: CheckpointOptions | None = None) -> None:
        """Open a checkpoint and check names and shapes; values are checked when they are read.

        Args:
            path: a `.pt`, `.pth`, `.bin` or `.safetensors` file, or a diffusers folder.
            options: what the caller wants checked.
        Raises:
            ArtifactError: unreadable, or a tensor is missing, extra or misshaped.
            OptionError: the file contradicts an option, or the heads cannot be told.
        """
        options = options or CheckpointOptions()
        self.path, self._options = Path(path), options
        read = read_diffusers_folder if self.path.is_dir() else open_tensor_file
        contents = read(self.path)
        self._tensors, self.files = contents.tensors, contents.files
        metadata = contents.metadata
        if METADATA_KEY in metadata:
            raise ArtifactError(
                f"{path}: an artifact, already quantized; needed a full-precision checkpoint"
            )
        self.config = _checked_config(self.path, self._tensors, metadata, options)
        self.label_names = options.label_names or _label_names(metadata)
        check_labels(self.path, self.label_names, self.config)
        told, stored = options.latent_scaling_factor, metadata.get("scaling_factor")
        factor = stored if told is None else told
        self.latent_scaling_factor = _scaling_factor(self.path, factor)
        self._sha256: str | None = None

    @property
    def sha256(self) -> str:
        """Hash of the whole file; of a folder, the hash of its files' hashes and names.

        The latter is what `sha256sum FILE .. | sha256sum` tells in that folder, files in order.
        """
        if self._sha256 is None:
            self._sha256 = _sha256_of_files(self.path, self.files)
        return self._sha256

    def __reduce__(self) -> tuple[Callable[..., Checkpoint], tuple[str, CheckpointOptions, str]]:
        """Pickle path, options and hash; whoever unpickles opens the file at this path again."""
        return _open_again, (str(self.path.resolve()), self._options, self.sha256)

    def quantized_layer(self, name: str) -> QuantizedLayer | None:
        """None: nothing is quantized in a full-precision checkpoint."""
        return None

    def torch_tensor(self, name: str) -> torch.Tensor:
        """Read one tensor as float32; ArtifactError if it is absent or not finite."""
        if name not in self._tensors:
            raise ArtifactError(f"{self.path}: no tensor {name}")
        value = self._tensors[name].read().float()
        if not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise ArtifactError(
                f"{self.path}: {name} holds {bad} NaN or infinite values, needed finite ones; "
                "the training may have diverged or the file is damaged"
            )
        return value

    def tensor(self, name: str) -> NDArray[Any]:
        """Read one tensor as a float32 array."""
        return np.asarray(self.torch_tensor(name).numpy())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All tensors in float32, for the teacher."""
        return {name: self.torch_tensor(name) for name in self.config.tensor_shapes()}


@lru_cache(maxsize=1)
def _open_again(path: str, options: CheckpointOptions, sha256: str) -> Checkpoint:
    """Open a checkpoint that was opened in another process, and see that it is the same one."""
    checkpoint = Checkpoint(path, options)
    if checkpoint.sha256 != sha256:
        raise ArtifactError(
            f"{path}: has the SHA-256 {checkpoint.sha256} on this machine, needed {sha256}; all "
            "machines need the same checkpoint at the same path"
        )
    return checkpoint


def _sha256_of_files(path: Path, files: tuple[Path, ...]) -> str:
    """Hash of a checkpoint of one file, or of a folder's files."""
    if path.is_file():
        return sha256_of_file(path)
    lines = [f"{sha256_of_file(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _checked_config(
    path: Path,
    tensors: Mapping[str, StoredTensor],
    metadata: Mapping[str, str],
    options: CheckpointOptions,
) -> ModelConfig:
    """The configuration by shapes, checked against every tensor, the metadata and the options."""
    config = _config_from_shapes(path, tensors, metadata, options)
    needed = config.tensor_shapes()
    missing, extra = sorted(set(needed) - set(tensors)), sorted(set(tensors) - set(needed))
    if missing or extra:
        raise ArtifactError(
            f"{path}: tensors do not match a DiT of depth {config.depth}, hidden "
            f"{config.hidden_size}: missing {missing[:3]} ({len(missing)}), "
            f"unexpected {extra[:3]} ({len(extra)})"
        )
    for name, shape in needed.items():
        found = tuple(tensors[name].shape)
        if found != shape:
            raise ArtifactError(f"{path}: {name} has shape {found}, needed {shape}")
        if not tensors[name].dtype.is_floating_point:
            raise ArtifactError(f"{path}: {name} is {tensors[name].dtype}, needed floating point")
    _check_options(path, config, options)
    return config


def _config_from_shapes(
    path: Path,
    tensors: Mapping[str, StoredTensor],
    metadata: Mapping[str, str],
    options: CheckpointOptions,
) -> ModelConfig:
    """Read the sizes off the embedders, the position table and the final layer."""
    hidden_size, in_channels, patch_size, _ = _shape(path, tensors, "x_embedder.proj.weight", 4)
    _, num_tokens, _ = _shape(path, tensors, "pos_embed", 3)
    table_rows, _ = _shape(path, tensors, "y_embedder.embedding_table.weight", 2)
    mlp_size, _ = _shape(path, tensors, "blocks.0.mlp.fc1.weight", 2)
    patch_values, _ = _shape(path, tensors, "final_layer.linear.weight", 2)
    grid = math.isqrt(num_tokens)
    if grid * grid != num_tokens:
        raise ArtifactError(f"{path}: pos_embed has {num_tokens} tokens, needed a square number")
    out_channels = patch_values / (patch_size**2)
    if out_channels not in (in_channels, 2 * in_channels):
        raise ArtifactError(
            f"{path}: final_layer.linear has {patch_values} rows, needed "
            f"{patch_size**2 * in_channels} or twice that (learned sigma)"
        )
    blocks = {int(m[1]) for name in tensors if (m := re.match(r"blocks\.(\d+)\.", name))}
    return ModelConfig(
        input_size=grid * patch_size,
        patch_size=patch_size,
        in_channels=in_channels,
        hidden_size=hidden_size,
        depth=len(blocks),
        num_heads=_num_heads(path, hidden_size, metadata, options),
        mlp_ratio=mlp_size / hidden_size,
        num_classes=table_rows - 1,
        learn_sigma=out_channels == 2 * in_channels,
    )


def _shape(
    path: Path, tensors: Mapping[str, StoredTensor], name: str, rank: int
) -> tuple[int, ...]:
    """Shape of a tensor that every DiT has."""
    if name not in tensors:
        some = sorted(tensors)[:3]
        raise ArtifactError(
            f"{path}: no tensor {name}; this is not a DiT checkpoint in the facebookresearch "
            f"layout (found {len(tensors)} tensors: {', '.join(some)}, ..)"
        )
    shape = tuple(tensors[name].shape)
    if len(shape) != rank or 0 in shape:
        raise ArtifactError(
            f"{path}: {name} has shape {shape}, needed {rank} dimensions, none of them empty"
        )
    return shape


def _num_heads(
    path: Path, hidden_size: int, metadata: Mapping[str, str], options: CheckpointOptions
) -> int:
    """Heads are not visible in any shape: metadata or option, then the paper's table."""
    if "config" in metadata:
        try:
            num_heads = int(json.loads(metadata["config"])["num_heads"])
        except (ValueError, KeyError, TypeError):
            raise ArtifactError(f"{path}: metadata 'config' holds no valid num_heads") from None
        if options.num_heads not in (None, num_heads):
            raise OptionError(
                f"{path}: has {num_heads} heads, the option says {options.num_heads}; leave it out"
            )
        return num_heads
    if options.num_heads is not None:
        return options.num_heads
    if hidden_size in _HEADS_BY_HIDDEN_SIZE:
        return _HEADS_BY_HIDDEN_SIZE[hidden_size]
    raise OptionError(
        f"{path}: hidden size {hidden_size} is none of the paper's "
        f"({sorted(_HEADS_BY_HIDDEN_SIZE)}), so the number of heads must be given: --num-heads N"
    )


def _check_options(path: Path, config: ModelConfig, options: CheckpointOptions) -> None:
    """Compare the file with what the caller said it is."""
    if options.input_size is not None and config.input_size != options.input_size:
        raise OptionError(
            f"{path}: is for latents of {config.input_size}x{config.input_size}, "
            f"the option says {options.input_size}"
        )
    if options.model is None:
        return
    if options.model not in PRESETS:
        raise OptionError(f"model {options.model!r} is unknown; known are {', '.join(PRESETS)}")
    preset = replace(
        PRESETS[options.model], input_size=config.input_size, num_classes=config.num_classes
    )
    if preset != config:
        differing = [
            f"{key} {value} (needed {preset.to_dict()[key]})"
            for key, value in config.to_dict().items()
            if value != preset.to_dict()[key]
        ]
        raise OptionError(f"{path}: is not {options.model}: {', '.join(differing)}")


def _label_names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Class names stored in the file's own metadata as a JSON list."""
    try:
        names = json.loads(metadata.get("class_names", "[]"))
    except ValueError:
        return ()
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _scaling_factor(path: Path, value: float | str | None) -> float:
    """The latent scaling factor, a positive number."""
    try:
        factor = DEFAULT_LATENT_SCALING_FACTOR if value is None else float(value)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ArtifactError(f"{path}: latent scaling factor {value!r}, needed a positive number")
    return factor
