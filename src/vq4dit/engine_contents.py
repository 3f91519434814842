"""Reads back from an engine's step model which linears are quantized, and with which numbers.

The proof that no layer stayed dense by accident: it trusts the ONNX file alone and compares with
the manifest. Needs onnx; runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .accounting import LayerSize, ModelSize, dense_layer_size, quantized_layer_size
from .engines.manifest import Manifest
from .errors import ArtifactError, BackendUnavailable, ShapeError
from .plugins.layer import QuantizedLayer
from .plugins.layout import AssignmentLayout, Layout
from .plugins.packing import change_assignment_layout
from .plugins.schema import DOMAIN, OPS, layout_from_attributes

#: The one linear that export may write for the adaLN linears of all blocks.
_STACK_NAME = "blocks.adaLN_modulation.1"
_STACKED_KIND = "adaLN_modulation.1"

#: Bits per weight in the manifest from which on a linear is meant to be dense.
_DENSE_BITS = 16


@dataclass(frozen=True, kw_only=True)
class EngineContents:
    """Sizes of an engine's layers, and how many nodes of our ops its step model has.

    `num_codebook_nodes` is 0 in the inlined form, where function bodies stand in their place.
    """

    size: ModelSize
    num_codebook_nodes: int


def read_engine_contents(directory: Path, manifest: Manifest) -> EngineContents:
    """Account for an engine by its step model; the files must have been verified.

    Raises:
        ArtifactError: a linear is missing, twice there, or not what the manifest says.
        BackendUnavailable: onnx is not installed.
    """
    model = _load(directory / manifest.files["step"].name)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    reader = _Reader(directory, manifest, tensors, dict(_layout(directory, n) for n in nodes))
    layers = tuple(
        reader.layer(name, shape) for name, shape in manifest.model.block_linear_shapes().items()
    )
    in_layers = sum(layer.bytes + layer.bias_bytes for layer in layers)
    in_files = sum(entry.bytes for entry in manifest.files.values())
    return EngineContents(
        size=ModelSize(layers=layers, other_bytes=in_files - in_layers),
        num_codebook_nodes=len(nodes),
    )


class _Reader:
    """Finds one linear at a time among a model's initializers.

    `layouts`: of assignments that a node of ours reads, by the tensor's name. Those that standard
    nodes read are rows.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        tensors: Mapping[str, Any],
        layouts: Mapping[str, Layout],
    ) -> None:
        self._directory, self._manifest = directory, manifest
        self._tensors, self._layouts = tensors, layouts

    def layer(self, name: str, shape: tuple[int, int]) -> LayerSize:
        """The linear `name` of shape (O, I), quantized or dense."""
        places = [name, _STACK_NAME] if name.endswith(f".{_STACKED_KIND}") else [name]
        quantized = [place for place in places if f"{place}.assignments" in self._tensors]
        is_dense = f"{name}.weight" in self._tensors
        if len(quantized) + is_dense != 1:
            raise ArtifactError(
                f"{self._directory}: {name} is {len(quantized)} times quantized and "
                f"{int(is_dense)} times dense in the step model, needed once in all; build it again"
            )
        bits = self._manifest.bits_per_weight.get(name, _DENSE_BITS)
        if is_dense != (bits >= _DENSE_BITS):
            raise ArtifactError(
                f"{self._directory}: {name} is {'dense' if is_dense else 'quantized'} in the step "
                f"model, but the manifest says {bits:.3f} bits per weight; build it again"
            )
        return self._dense(name, shape) if is_dense else self._quantized(name, quantized[0], shape)

    def _dense(self, name: str, shape: tuple[int, int]) -> LayerSize:
        weight, bias = self._array(f"{name}.weight"), self._array(f"{name}.bias")
        if weight.size != shape[0] * shape[1]:
            raise ArtifactError(
                f"{self._directory}: {name}.weight has shape {weight.shape}, needed {shape}"
            )
        return dense_layer_size(name, shape, weight.nbytes, bias.nbytes)

    def _quantized(self, name: str, place: str, shape: tuple[int, int]) -> LayerSize:
        """Size of a quantized linear, cut out of the stack where it is part of one."""
        codebook, packed, bias = (
            self._array(f"{place}.{part}") for part in ("codebook", "assignments", "bias")
        )
        depth = self._manifest.model.depth
        index, count = (int(name.split(".")[1]), depth) if place == _STACK_NAME else (0, 1)
        known = self._layouts.get(f"{place}.assignments")
        try:
            layout = known or Layout(
                in_features=shape[1],
                codebook_size=codebook.shape[1],
                sub_vector_len=codebook.shape[2],
            )
            rows = change_assignment_layout(packed, layout, AssignmentLayout.ROWS)
            layer = QuantizedLayer(
                codebook=_part(codebook, index, count),
                assignments=_part(rows, index, count),
                bias=_part(bias, index, count),
                layout=replace(layout, assignment_layout=AssignmentLayout.ROWS),
            )
        except (ShapeError, ValueError, IndexError) as error:
            raise ArtifactError(f"{self._directory}: {place} in the step model: {error}") from None
        found = (layer.out_features, layout.in_features)
        if found != shape:
            raise ArtifactError(f"{self._directory}: {name} has shape {found}, needed {shape}")
        size = quantized_layer_size(name, layer, bias_bytes=layer.bias.nbytes)
        return size if known else replace(size, group_order=None)

    def _array(self, name: str) -> NDArray[Any]:
        from onnx import numpy_helper

        if name not in self._tensors:
            raise ArtifactError(f"{self._directory}: the step model lacks {name}; build it again")
        return np.asarray(numpy_helper.to_array(self._tensors[name], str(self._directory)))


def _load(path: Path) -> Any:
    """The ONNX model without its external data."""
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"looking into {path} needs the module {error.name}; pip install 'vq4dit[calibrate]'"
        ) from None
    try:
        return onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ArtifactError(f"{path}: not an ONNX model ({error}); build it again") from None


def _layout(directory: Path, node: Any) -> tuple[str, Layout]:
    """Assignments that a node of ours reads, and the layout that its attributes say they have."""
    try:
        place = OPS[node.op_type].inputs.index("assignments")
        return node.input[place], layout_from_attributes({a.name: a.i for a in node.attribute})
    except (KeyError, IndexError, ShapeError, ValueError) as error:
        raise ArtifactError(f"{directory}: {node.name} in the step model: {error}") from None


def _part(array: NDArray[Any], index: int, count: int) -> NDArray[Any]:
    """Part `index` of `count` equal parts along the first axis."""
    if len(array) % count:
        raise ShapeError(f"{len(array)} rows cannot be cut into {count} equal parts")
    size = len(array) // count
    return np.ascontiguousarray(array[index * size : (index + 1) * size])
