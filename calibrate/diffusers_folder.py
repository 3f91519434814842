"""Read a diffusers DiT folder as a checkpoint in the facebookresearch layout.

Takes the folder of a `DiTTransformer2DModel` (config.json and diffusion_pytorch_model.safetensors
or .bin, whole or in shards) or a `DiTPipeline` folder around one. diffusers keeps q, k and v apart,
gives each block its own copy of both embedders and does not store the position table; here they
become one qkv, one embedder and the table computed anew. Does not need diffusers itself.

Timesteps: the public weights were trained with frequencies 10000^(-i/128), which every part of this
project uses; diffusers' own forward takes 10000^(-i/127) (`downscale_freq_shift=1`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vq4dit.errors import ArtifactError
from vq4dit.model_config import ModelConfig

from .diffusers_config import model_config, read_json
from .pipeline_files import read_pipeline_files
from .position_table import sincos_position_table
from .tensor_files import CheckpointContents, StoredTensor, open_tensor_file

#: File names of the weights, the first one found is read; an index lists the shards of a model.
WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
)

_RENAMED = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.linear": "proj_out_2",
    "final_layer.adaLN_modulation.1": "proj_out_1",
}
_RENAMED_IN_BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
_COPIED_TO_EACH_BLOCK = {
    "t_embedder.mlp.0": "norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "norm1.emb.class_embedder.embedding_table",
}


def read_diffusers_folder(path: Path) -> CheckpointContents:
    """Open a folder; only headers are read now, each tensor when it is asked for.

    Args:
        path: a transformer's folder, or a pipeline's folder with `transformer/` in it.
    Returns:
        Tensors under the names of the facebookresearch layout.
    Raises:
        ArtifactError: not such a folder, a configuration that is no DiT of this project, or a
            tensor is missing, extra, misshaped or no floating point.
    """
    folder = _transformer_folder(path)
    config = model_config(folder / "config.json")
    stored, weight_files = _open_weights(folder)
    _check_depth(folder, stored, config)
    _check_stored(folder, stored, config)
    tensors = {
        name: _assembled(folder, stored, name, shape, config)
        for name, shape in config.tensor_shapes().items()
    }
    metadata = {"config": json.dumps(config.to_dict())}
    pipeline_files: tuple[Path, ...] = ()
    if folder != path:
        told, pipeline_files = read_pipeline_files(path, config)
        metadata |= told
    return CheckpointContents(
        tensors=tensors,
        metadata=metadata,
        files=(folder / "config.json", *weight_files, *pipeline_files),
    )


def _transformer_folder(path: Path) -> Path:
    """The folder with config.json: the given one or its `transformer`."""
    for folder in (path, path / "transformer"):
        if (folder / "config.json").is_file():
            return folder
    raise ArtifactError(
        f"{path}: a folder without config.json and without transformer/config.json; needed the "
        "folder of a diffusers DiTTransformer2DModel or DiTPipeline"
    )


def _open_weights(folder: Path) -> tuple[dict[str, StoredTensor], tuple[Path, ...]]:
    """The stored tensors under diffusers' names, and the files that hold them."""
    for name in WEIGHT_FILES:
        path = folder / name
        if not path.is_file():
            continue
        if path.suffix == ".json":
            return _open_shards(path)
        return dict(open_tensor_file(path).tensors), (path,)
    found = sorted(entry.name for entry in folder.iterdir())[:8]
    raise ArtifactError(f"{folder}: none of {', '.join(WEIGHT_FILES)}; found {found}")


def _open_shards(index: Path) -> tuple[dict[str, StoredTensor], tuple[Path, ...]]:
    """All shards that an index lists."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ArtifactError(f"{index}: no weight_map, needed an object of tensor name -> file name")
    suffix = index.name.removesuffix(".index.json").rpartition(".")[2]
    for shard in weight_map.values():
        if not isinstance(shard, str) or Path(shard).name != shard or "\\" in shard:
            raise ArtifactError(f"{index}: shard {shard!r}, needed a file name of the same folder")
        if not shard.endswith(f".{suffix}"):
            raise ArtifactError(f"{index}: shard {shard!r}, needed a name that ends in .{suffix}")
    files = tuple(index.parent / shard for shard in sorted(set(weight_map.values())))
    stored: dict[str, StoredTensor] = {}
    for file in files:
        tensors = open_tensor_file(file).tensors
        listed = {name for name, shard in weight_map.items() if shard == file.name}
        if set(tensors) != listed:
            differing = sorted(set(tensors) ^ listed)
            raise ArtifactError(
                f"{file}: its tensors are not those that {index.name} lists: "
                f"{differing[:3]} ({len(differing)})"
            )
        stored |= tensors
    return stored, (index, *files)


def _check_depth(folder: Path, stored: Mapping[str, StoredTensor], config: ModelConfig) -> None:
    """The configured depth must be that of the weights, before names are made for each block."""
    indices = {name.split(".")[1] for name in stored if name.startswith("transformer_blocks.")}
    if len(indices) != config.depth:
        raise ArtifactError(
            f"{folder}: the weights hold {len(indices)} blocks, config.json says num_layers "
            f"{config.depth}"
        )


def _check_stored(folder: Path, stored: Mapping[str, StoredTensor], config: ModelConfig) -> None:
    """Names, shapes and dtypes of what is stored against the configuration."""
    needed: dict[str, tuple[int, ...]] = {}
    for name, shape in config.tensor_shapes().items():
        rows = shape[0] // 3 if ".attn.qkv." in name else shape[0]
        needed |= dict.fromkeys(_stored_names(name, config.depth), (rows, *shape[1:]))
    missing, extra = sorted(set(needed) - set(stored)), sorted(set(stored) - set(needed))
    if missing or extra:
        raise ArtifactError(
            f"{folder}: tensors do not match config.json: missing {missing[:3]} ({len(missing)}), "
            f"unexpected {extra[:3]} ({len(extra)})"
        )
    for name, shape in needed.items():
        found = stored[name]
        if found.shape != shape:
            raise ArtifactError(
                f"{folder}: {name} has shape {found.shape}, needed {shape} by config.json"
            )
        if not found.dtype.is_floating_point:
            raise ArtifactError(f"{folder}: {name} is {found.dtype}, needed floating point")


def _stored_names(name: str, depth: int) -> tuple[str, ...]:
    """diffusers' names of a tensor: one, the three parts of qkv, or one copy for each block."""
    if name == "pos_embed":
        return ()
    layer, _, kind = name.rpartition(".")
    if layer in _RENAMED:
        return (f"{_RENAMED[layer]}.{kind}",)
    if layer in _COPIED_TO_EACH_BLOCK:
        copied = _COPIED_TO_EACH_BLOCK[layer]
        return tuple(f"transformer_blocks.{index}.{copied}.{kind}" for index in range(depth))
    _, index, linear = layer.split(".", 2)
    prefix = f"transformer_blocks.{index}"
    if linear == "attn.qkv":
        return tuple(f"{prefix}.attn1.to_{part}.{kind}" for part in "qkv")
    return (f"{prefix}.{_RENAMED_IN_BLOCK[linear]}.{kind}",)


def _assembled(
    folder: Path,
    stored: Mapping[str, StoredTensor],
    name: str,
    shape: tuple[int, ...],
    config: ModelConfig,
) -> StoredTensor:
    """A tensor of the facebookresearch layout that reads its stored parts on demand."""
    names = _stored_names(name, config.depth)
    parts = [stored[stored_name] for stored_name in names]

    def read() -> torch.Tensor:
        if name == "pos_embed":
            return sincos_position_table(config)
        if ".attn.qkv." in name:
            return torch.cat([part.read().float() for part in parts])
        first = parts[0].read()
        for stored_name, part in zip(names[1:], parts[1:], strict=True):
            _check_copy(folder, names[0], first, stored_name, part.read())
        return first

    return StoredTensor(shape=shape, dtype=torch.float32, read=read)


def _check_copy(folder: Path, first_name: str, first: Any, name: str, copy: torch.Tensor) -> None:
    """The model shares one embedder, so that all blocks' copies must be the same."""
    differing = ~torch.isclose(first.float(), copy.float(), rtol=0, atol=0, equal_nan=True)
    if differing.any():
        raise ArtifactError(
            f"{folder}: {name} differs from {first_name} in {int(differing.sum())} of "
            f"{differing.numel()} values, needed equal copies in all blocks; a model that was "
            "fine-tuned with separate embedders is no DiT that can be read"
        )
