"""Read and write `NAME.vq.safetensors`, the quantized checkpoint. Needs no torch.

Per quantized linear: `<layer>.codebook` (R, K, d) float16, `<layer>.assignments` int8 in layout
ROWS, `<layer>.bias` (O,); and every other tensor of the state dict in float16 (float32 where
float16 would overflow). The safetensors metadata holds one JSON object under the key "vq4dit".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import ArtifactError, ShapeError
from vq4dit.model_config import ModelConfig
from vq4dit.plugins.layer import QuantizedLayer
from vq4dit.plugins.packing import unpack_assignments

from .artifact_info import (
    METADATA_KEY,
    ArtifactInfo,
    check_names,
    info_from_metadata,
    json_from_info,
)
from .safetensors_file import hash_tensor, open_safetensors, sha256_of_file, write_safetensors

_FLOATS = ("F16", "F32")
_FLOAT16_MAX = float(np.finfo(np.float16).max)


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
    check_names(path, info, set(content))
    content = dict(sorted(content.items()))
    values = json_from_info(info)
    values["sha256"] = {name: hash_tensor(value) for name, value in content.items()}
    write_safetensors(path, content, {METADATA_KEY: json.dumps(values, sort_keys=True)})


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
        self.info, self._hashes = info_from_metadata(self.path, self._file.metadata() or {})
        self._sha256: str | None = None
        check_names(self.path, self.info, set(self._file.keys()))
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
        """Read one quantized linear; every assignment is checked to be < K.

        Raises:
            ArtifactError: its bytes are not those that were written, or no linear's.
        """
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
        """Read one dense tensor as float32.

        Raises:
            ArtifactError: no dense tensor has this name, or its bytes are damaged.
        """
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


def is_artifact(path: Path) -> bool:
    """Whether a safetensors file carries the artifact's metadata key."""
    return METADATA_KEY in (open_safetensors(path).metadata() or {})


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
