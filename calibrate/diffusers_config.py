"""The configuration of a diffusers DiT: its config.json, checked key by key.

Accepts `DiTTransformer2DModel` and the older class name `Transformer2DModel` with the same options.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vq4dit.errors import ArtifactError
from vq4dit.model_config import ModelConfig

#: Larger files are no configuration; a pipeline's index with 1000 label names has 40 kB.
_MAX_JSON_BYTES = 4 << 20

#: The position table is not stored, so that nothing in the file bounds its size: 256 patches a side
#: are pictures of 4096x4096.
_MAX_GRID_SIZE = 256

_CLASS_NAMES = ("DiTTransformer2DModel", "Transformer2DModel")
_SIZES = (
    "sample_size",
    "patch_size",
    "in_channels",
    "num_layers",
    "num_attention_heads",
    "attention_head_dim",
    "num_embeds_ada_norm",
)

#: Options that must be present with one of these values: the adaLN-Zero block of a DiT.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "norm_type": ("ada_norm_zero",),
    "activation_fn": ("gelu-approximate",),
    "norm_elementwise_affine": (False,),
    "attention_bias": (True,),
}

#: Options that change the model and may be absent. norm_eps 1e-5 is what diffusers writes for the
#: public weights, whose blocks were trained with 1e-6; the difference is 5e-6 of a token's size.
_OPTIONAL: dict[str, tuple[Any, ...]] = {
    "norm_eps": (1e-5, 1e-6),
    "attention_type": ("default",),
    "caption_channels": (None,),
    "cross_attention_dim": (None,),
    "double_self_attention": (False,),
    "interpolation_scale": (None, 1),
    "num_vector_embeds": (None,),
    "only_cross_attention": (False,),
    "use_additional_conditions": (None, False),
}

#: Options without effect on a DiT's inference.
_WITHOUT_EFFECT = frozenset({"dropout", "norm_num_groups", "upcast_attention", "out_channels",
                             "use_linear_projection"})  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a small file; ArtifactError if it is missing, too large or no object."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ArtifactError(f"{path}: larger than {_MAX_JSON_BYTES} bytes, needed a small file")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: holds a {type(value).__name__}, needed an object")
    return value


def model_config(path: Path) -> ModelConfig:
    """Read config.json.

    Args:
        path: the file.
    Raises:
        ArtifactError: another class, a missing or unknown option, or one that no DiT of the
            facebookresearch layout has.
    """
    values = read_json(path)
    if values.get("_class_name") not in _CLASS_NAMES:
        raise ArtifactError(
            f"{path}: _class_name {values.get('_class_name')!r}, needed {' or '.join(_CLASS_NAMES)}"
        )
    _check_options(path, values)
    sizes = {name: _size(path, values, name) for name in _SIZES}
    config = ModelConfig(
        input_size=sizes["sample_size"],
        patch_size=sizes["patch_size"],
        in_channels=sizes["in_channels"],
        hidden_size=sizes["num_attention_heads"] * sizes["attention_head_dim"],
        depth=sizes["num_layers"],
        num_heads=sizes["num_attention_heads"],
        num_classes=sizes["num_embeds_ada_norm"],
        learn_sigma=_learn_sigma(path, values, sizes["in_channels"]),
    )
    if config.grid_size > _MAX_GRID_SIZE:
        raise ArtifactError(
            f"{path}: sample_size {config.input_size} with patch_size {config.patch_size} makes "
            f"{config.grid_size} patches a side, needed at most {_MAX_GRID_SIZE}"
        )
    return config


def _check_options(path: Path, values: dict[str, Any]) -> None:
    """Every option but the sizes; unknown ones are refused, since they may change the model."""
    for name, allowed in {**_REQUIRED, **_OPTIONAL}.items():
        if name not in values and name in _OPTIONAL:
            continue
        if name not in values or values[name] not in allowed:
            found = repr(values[name]) if name in values else "missing"
            needed = " or ".join(repr(value) for value in allowed)
            raise ArtifactError(f"{path}: {name} is {found}, needed {needed}")
    known = {*_SIZES, *_REQUIRED, *_OPTIONAL, *_WITHOUT_EFFECT}
    unknown = sorted(name for name in values if name not in known and not name.startswith("_"))
    if unknown:
        raise ArtifactError(f"{path}: unknown options {unknown[:5]}; known are {sorted(known)}")


def _size(path: Path, values: dict[str, Any], name: str) -> int:
    """One positive integer."""
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 1 << 20:
        raise ArtifactError(f"{path}: {name} is {value!r}, needed an integer in 1..{1 << 20}")
    return value


def _learn_sigma(path: Path, values: dict[str, Any], in_channels: int) -> bool:
    """Whether the model has variance channels; out_channels null or absent means in_channels."""
    out_channels = values.get("out_channels")
    if out_channels is None or out_channels == in_channels:
        return False
    if out_channels == 2 * in_channels:
        return True
    raise ArtifactError(
        f"{path}: out_channels is {out_channels!r}, needed {in_channels} or "
        f"{2 * in_channels} (learned sigma)"
    )
