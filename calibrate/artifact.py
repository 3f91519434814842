"""Read and write `NAME.vq.safetensors`, the quantized checkpoint. Needs no torch.

Per quantized linear: `<layer>.codebook` (R, K, d) float16, `<layer>.assignments` int8 in layout
ROWS, `<layer>.bias` (O,); and every other tensor of the state dict in float16 (float32 where
float16 would overflow). The safetensors metadata holds one JSON object under the key "vq4dit".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vq4dit.atomic_file import atomic_path
from vq4dit.errors import ArtifactError, ShapeError
from vq4dit.model_config import ModelConfig
from vq4dit.plugins.layer import QuantizedLayer
from vq4dit.plugins.layout import AssignmentLayout, GroupOrder, Layout
from vq4dit.plugins.packing import unpack_assignments

FORMAT_VERSION = 1
METADATA_KEY = "vq4dit"
_FLOATS = ("F16", "F32")
_FLOAT16_MAX = float(np.finfo(np.float16).max)


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


def save_artifact(
    path: Path,
    info: ArtifactInfo,
    layers: Mapping[str, QuantizedLayer],
    tensors: Mapping[str, NDArray[Any]],
) -> None:
    """Write an artifact: to a temporary file beside it, fsync, then rename.

    Args:
        path: target, by convention `NAME.vq.safetensors`.
        info: configuration, layouts (must name exactly `layers`) and provenance.
        layers: linear name -> quantized layer, assignments in layout ROWS.
        tensors: every other tensor of the state dict, floating.
    Raises:
        ArtifactError: layers, tensors and configuration do not belong together, or the disk fails.
    """
    content: dict[str, NDArray[Any]] = {}
    for name, layer in layers.items():
        if layer.layout != info.layouts.get(name):
            raise ArtifactError(f"{name}: layer has {layer.layout}, info {info.layouts.get(name)}")
        content[f"{name}.codebook"] = _float16(f"{name}.codebook", layer.codebook)
        content[f"{name}.assignments"] = np.ascontiguousarray(layer.assignments)
        content[f"{name}.bias"] = _storage(f"{name}.bias", layer.bias)
    for name, tensor in tensors.items():
        content[name] = _storage(name, tensor)
    _check_names(path, info, set(content))
    content = dict(sorted(content.items()))
    values = _json_from_info(info)
    values["sha256"] = {name: hash_tensor(value) for name, value in content.items()}
    write_safetensors(path, content, {METADATA_KEY: json.dumps(values, sort_keys=True)})


def hash_tensor(tensor: NDArray[Any]) -> str:
    """SHA-256 of a tensor's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(tensor).data).hexdigest()


def write_safetensors(
    path: Path, tensors: dict[str, NDArray[Any]], metadata: dict[str, str]
) -> None:
    """Write a safetensors file atomically; ArtifactError when the disk does not take it."""
    path = Path(path)
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: could not be written ({error}); nothing was left") from error


class Artifact:
    """A checked artifact; tensors are read from the file when they are asked for.

    Implements `vq4dit.weight_source.WeightSource`.
    """

    def __init__(self, path: str | Path) -> None:
        """Open and check an artifact: header, names, shapes and dtypes; indices on reading.

        Raises:
            ArtifactError: not a safetensors file, not an artifact, or anything does not fit.
        """
        self.path = Path(path)
        self._file = open_safetensors(self.path)
        self.info, self._hashes = _info_from_metadata(self.path, self._file.metadata() or {})
        self._sha256: str | None = None
        _check_names(self.path, self.info, set(self._file.keys()))
        self._check_headers()

    @property
    def config(self) -> ModelConfig:
        """Sizes of the model."""
        return self.info.config

    @property
    def label_names(self) -> tuple[str, ...]:
        """One name per class, or empty."""
        return self.info.label_names

    @property
    def latent_scaling_factor(self) -> float:
        """Latents are VAE codes times this factor."""
        return self.info.latent_scaling_factor

    @property
    def sha256(self) -> str:
        """Hash of the whole file."""
        if self._sha256 is None:
            self._sha256 = sha256_of_file(self.path)
        return self._sha256

    def quantized_layer(self, name: str) -> QuantizedLayer | None:
        """Read one quantized linear; every assignment is checked to be < K."""
        layout = self.info.layouts.get(name)
        if layout is None:
            return None
        layer = QuantizedLayer(
            codebook=self._read(f"{name}.codebook"),
            assignments=self._read(f"{name}.assignments"),
            bias=self._read(f"{name}.bias").astype(np.float32),
            layout=layout,
        )
        try:
            unpack_assignments(layer.assignments, layout)
        except ShapeError as error:
            raise ArtifactError(f"{self.path}: {name}: {error}; the file is damaged") from None
        return layer

    def tensor(self, name: str) -> NDArray[Any]:
        """Read one dense tensor as float32."""
        if name not in self.config.tensor_shapes() or name.rpartition(".")[0] in self.info.layouts:
            raise ArtifactError(f"{self.path}: {name} is not a dense tensor of this artifact")
        return self._read(name).astype(np.float32)

    def _read(self, name: str) -> NDArray[Any]:
        """One tensor as stored: its bytes must have the recorded hash, floats must be finite."""
        value: NDArray[Any] = self._file.get_tensor(name)
        found, needed = hash_tensor(value), self._hashes.get(name)
        if found != needed:
            raise ArtifactError(
                f"{self.path}: {name} has sha256 {found[:12]}.., recorded {str(needed)[:12]}..; "
                "the file was changed or damaged: copy or calibrate it again"
            )
        if value.dtype != np.int8 and not np.isfinite(value).all():
            raise ArtifactError(f"{self.path}: {name} holds NaN or infinity; the file is damaged")
        return value

    def _check_headers(self) -> None:
        """Compare each tensor's dtype and shape, by header alone, with what the info asks for."""
        shapes = self.config.tensor_shapes()
        for name in self._file.keys():
            header = self._file.get_slice(name)
            found, dtype = tuple(header.get_shape()), header.get_dtype()
            layer, _, part = name.rpartition(".")
            layout = self.info.layouts.get(layer)
            dtypes: tuple[str, ...] = _FLOATS
            if layout is not None and part == "assignments":
                dtypes = ("I8",)
                needed = layout.assignments_shape(shapes[f"{layer}.weight"][0])
            elif layout is not None and part == "codebook":
                dtypes = ("F16",)
                rows = found[0] if len(found) == 3 and found[0] > 0 else 1
                needed = (rows, layout.codebook_size, layout.sub_vector_len)
                if shapes[f"{layer}.weight"][0] % rows:
                    raise ArtifactError(
                        f"{self.path}: {name} has {rows} row groups, needed a divisor of "
                        f"{shapes[f'{layer}.weight'][0]}"
                    )
            else:
                needed = shapes[name]
            if found != needed or dtype not in dtypes:
                raise ArtifactError(
                    f"{self.path}: {name} is {dtype} {found}, needed {' or '.join(dtypes)} {needed}"
                )


def open_safetensors(path: Path) -> Any:
    """Open a safetensors file for NumPy; ArtifactError if it is missing, truncated or foreign."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path}: not a whole safetensors file ({error}); copy or make it again"
        ) from None


def is_artifact(path: Path) -> bool:
    """Whether a safetensors file carries the artifact's metadata key."""
    return METADATA_KEY in (open_safetensors(path).metadata() or {})


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _storage(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    """Dense tensors are stored in float16, or in float32 where float16 would overflow."""
    if not np.isfinite(tensor).all():
        raise ArtifactError(f"{name} holds NaN or infinity and is not written")
    fits = tensor.size == 0 or float(np.abs(tensor).max()) <= _FLOAT16_MAX
    return np.ascontiguousarray(tensor, np.float16 if fits else np.float32)


def _float16(name: str, codebook: NDArray[Any]) -> NDArray[Any]:
    """A codebook as it is stored; float16 must hold all of it."""
    largest = float(np.abs(codebook).max(initial=0))
    if not largest <= _FLOAT16_MAX:
        raise ArtifactError(
            f"{name} holds {largest}, needed at most {_FLOAT16_MAX:.0f}, float16's largest number; "
            "the calibration has diverged"
        )
    return np.ascontiguousarray(codebook, np.float16)


def _check_names(path: Path, info: ArtifactInfo, found: set[str]) -> None:
    """The tensors must be exactly those that configuration and layouts ask for."""
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


def _json_from_info(info: ArtifactInfo) -> dict[str, Any]:
    """The metadata object, plain values only."""
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


def _info_from_metadata(
    path: Path, metadata: Mapping[str, str]
) -> tuple[ArtifactInfo, dict[str, str]]:
    """Parse and check the metadata object; returns it and the recorded hash of each tensor."""
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


def check_labels(where: Path, label_names: tuple[str, ...], config: ModelConfig) -> None:
    """Label names are optional, but there must be one per class."""
    if label_names and len(label_names) != config.num_classes:
        raise ArtifactError(
            f"{where}: {len(label_names)} label names, needed {config.num_classes} or none"
        )
