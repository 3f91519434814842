"""What an artifact says of itself, as the JSON object in its metadata, and what it must hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vq4dit.errors import ArtifactError
from vq4dit.model_config import ModelConfig
from vq4dit.plugins.layout import AssignmentLayout, GroupOrder, Layout

FORMAT_VERSION = 1
METADATA_KEY = "vq4dit"


@dataclass(frozen=True, kw_only=True)
class ArtifactInfo:
    """What an artifact says of itself besides its tensors.

    `layouts` maps each quantized linear to its layout; `calibration` holds settings and summary.
    """

    config: ModelConfig
    layouts: Mapping[str, Layout]
    source_sha256: str
    label_names: tuple[str, ...] = ()
    latent_scaling_factor: float = 0.18215
    calibration: Mapping[str, Any] = field(default_factory=dict)


def json_from_info(info: ArtifactInfo) -> dict[str, Any]:
    """The metadata object without the tensors' hashes, plain values only."""
    return {
        "format_version": FORMAT_VERSION,
        "config": info.config.to_dict(),
        "layers": {
            name: {
                "codebook_size": layout.codebook_size,
                "sub_vector_len": layout.sub_vector_len,
                "group_order": int(layout.group_order),
            }
            for name, layout in info.layouts.items()
        },
        "source_sha256": info.source_sha256,
        "label_names": list(info.label_names),
        "latent_scaling_factor": info.latent_scaling_factor,
        "calibration": dict(info.calibration),
    }


def info_from_metadata(
    path: Path, metadata: Mapping[str, str]
) -> tuple[ArtifactInfo, dict[str, str]]:
    """Parse and check a safetensors file's metadata.

    Args:
        path: of the file, for messages.
    Returns:
        What it says, and the recorded SHA-256 of each tensor.
    Raises:
        ArtifactError: no artifact's metadata, of another version, or damaged.
    """
    if METADATA_KEY not in metadata:
        raise ArtifactError(
            f"{path}: a safetensors file without vq4dit metadata, not an artifact; "
            "quantize a checkpoint with `vq4dit calibrate`"
        )
    try:
        values = json.loads(metadata[METADATA_KEY])
        version = values["format_version"]
        if version != FORMAT_VERSION:
            raise ArtifactError(
                f"{path}: format version {version!r}, this program reads {FORMAT_VERSION}; "
                "update vq4dit or calibrate again"
            )
        config = ModelConfig.from_dict(values["config"])
        linears = config.block_linear_shapes()
        layouts = {
            name: Layout(
                in_features=linears[name][1],
                codebook_size=layer["codebook_size"],
                sub_vector_len=layer["sub_vector_len"],
                group_order=GroupOrder(layer["group_order"]),
                assignment_layout=AssignmentLayout.ROWS,
            )
            for name, layer in values["layers"].items()
        }
        info = ArtifactInfo(
            config=config,
            layouts=layouts,
            source_sha256=str(values["source_sha256"]),
            label_names=tuple(str(n) for n in values["label_names"]),
            latent_scaling_factor=float(values["latent_scaling_factor"]),
            calibration=dict(values["calibration"]),
        )
        hashes = dict(values["sha256"])
    except ArtifactError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: metadata is damaged ({type(error).__name__}: {error}); calibrate again"
        ) from None
    check_labels(path, info.label_names, config)
    return info, hashes


def check_names(path: Path, info: ArtifactInfo, found: set[str]) -> None:
    """Check that the tensors are exactly those that configuration and layouts ask for.

    Raises:
        ArtifactError: a layout of no block linear or of another width, or other tensors.
    """
    linears = info.config.block_linear_shapes()
    foreign = sorted(set(info.layouts) - set(linears))
    if foreign:
        raise ArtifactError(f"{path}: quantized layers {foreign[:3]} are no block linears")
    needed = set(info.config.tensor_shapes())
    for name, layout in info.layouts.items():
        needed -= {f"{name}.weight"}
        needed |= {f"{name}.codebook", f"{name}.assignments"}
        if layout.in_features != linears[name][1]:
            raise ArtifactError(
                f"{path}: {name} has in_features {layout.in_features}, needed {linears[name][1]}"
            )
    missing, extra = sorted(needed - found), sorted(found - needed)
    if missing or extra:
        raise ArtifactError(
            f"{path}: tensors do not match the model: missing {missing[:3]} ({len(missing)}), "
            f"unexpected {extra[:3]} ({len(extra)})"
        )


def check_labels(where: Path, label_names: tuple[str, ...], config: ModelConfig) -> None:
    """Check label names: they are optional, but there must be one per class.

    Raises:
        ArtifactError: there are more or fewer.
    """
    if label_names and len(label_names) != config.num_classes:
        raise ArtifactError(
            f"{where}: {len(label_names)} label names, needed {config.num_classes} or none"
        )
