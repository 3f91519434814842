"""Check an exported ONNX file: structure, external data, our nodes, and a shape for every tensor.

Uses ONNX's own checker and shape inference, and `vq4dit.plugins.schema` for the nodes that ONNX
does not know. Runs nothing and does not read the weights' values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, checker, helper, shape_inference

from vq4dit.errors import ArtifactError, ShapeError
from vq4dit.plugins import schema
from vq4dit.plugins.reference import ACTIVATIONS

#: Stands for a dimension that is not known when the model is built.
_DYNAMIC = -1


def check_model(path: Path) -> onnx.ModelProto:
    """Check the file and its external data; returns the model with its weights left on the disk.

    Raises:
        ArtifactError: naming the file, the node or tensor, what was found and what was needed.
    """
    model = _read_model(path)
    for tensor in model.graph.initializer:
        _check_external(path, tensor)
    try:
        checker.check_model(str(path), full_check=True)
        inferred = shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        first = str(error).strip().splitlines()[0]  # one fault makes a line for each node behind it
        raise ArtifactError(f"{path}: not a valid ONNX model: {first}") from None
    shapes = _tensor_shapes(inferred)
    functions = {(f.domain, f.name, f.overload) for f in model.functions}
    for node in inferred.graph.node:
        missing = [name for name in node.output if name and name not in shapes]
        if missing:
            raise ArtifactError(
                f"{path}: node {node.name}: no shape is known of output {missing[0]}"
            )
        if node.domain == schema.DOMAIN:
            _check_codebook_node(path, node, shapes, functions)
    return model


def _read_model(path: Path) -> onnx.ModelProto:
    """Parse the file without its external data."""
    try:
        return onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read as an ONNX model: {error}") from None


def _check_external(path: Path, tensor: onnx.TensorProto) -> None:
    """External data must be in a file beside the model, in bounds and of the right size."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return
    where = f"{path}: initializer {tensor.name}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if location != Path(location).name or location in ("", ".", ".."):
        raise ArtifactError(f"{where}: location is {location!r}, needed a file beside the model")
    data = path.with_name(location)
    if not data.is_file():
        raise ArtifactError(f"{where}: {data} is missing; it belongs beside the model")
    try:
        offset, length = int(entries.get("offset", "0")), int(entries["length"])
    except (KeyError, ValueError):
        raise ArtifactError(f"{where}: offset or length is not a number") from None
    needed = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    for size in tensor.dims:
        needed *= size
    if length != needed:
        raise ArtifactError(f"{where}: length is {length} bytes, needed {needed}")
    if offset < 0 or offset + length > data.stat().st_size:
        raise ArtifactError(
            f"{where}: bytes {offset}..{offset + length} are behind the end of {data} "
            f"({data.stat().st_size} bytes); the file was cut short"
        )


def _tensor_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor whose rank and element type are known; dynamic dimensions are -1."""
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        tensor_type = info.type.tensor_type
        if tensor_type.elem_type and tensor_type.HasField("shape"):
            shapes[info.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else _DYNAMIC
                for dim in tensor_type.shape.dim
            )
    return shapes


def _check_codebook_node(
    path: Path,
    node: onnx.NodeProto,
    shapes: Mapping[str, tuple[int, ...]],
    functions: set[tuple[str, str, str]],
) -> None:
    """One node of domain `vq4dit` against the schema."""
    where = f"{path}: node {node.name} ({node.op_type})"
    op = schema.OPS.get(node.op_type)
    if op is None:
        raise ArtifactError(f"{where}: unknown op; domain {schema.DOMAIN} has {sorted(schema.OPS)}")
    if functions and (node.domain, node.op_type, node.overload) not in functions:
        raise ArtifactError(f"{where}: no function body with overload {node.overload!r}")
    if len(node.input) != len(op.inputs) or len(node.output) != 1 or not all(node.input):
        raise ArtifactError(
            f"{where}: has inputs {list(node.input)}, needed {', '.join(op.inputs)}"
        )
    try:
        layout = schema.layout_from_attributes(_checked_attributes(node, op))
        needed = schema.output_shape(op, layout, [shapes[name] for name in node.input])
    except (ShapeError, ValueError, KeyError) as error:
        raise ArtifactError(f"{where}: {error}") from None
    found = shapes[node.output[0]]
    if len(found) != len(needed) or any(
        a != b and _DYNAMIC not in (a, b) for a, b in zip(found, needed, strict=True)
    ):
        raise ArtifactError(f"{where}: output has shape {found}, needed {needed}")


def _checked_attributes(node: onnx.NodeProto, op: schema.OpSchema) -> dict[str, Any]:
    """The node's attributes by name; ShapeError unless they are those of the op."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if sorted(values) != sorted(op.attributes):
        raise ShapeError(f"has attributes {sorted(values)}, needed {sorted(op.attributes)}")
    wanted: dict[str, Sequence[str]] = {
        "plugin_namespace": (schema.PLUGIN_NAMESPACE,),
        "plugin_version": (schema.PLUGIN_VERSION,),
        "activation": ACTIVATIONS,
    }
    for name, allowed in wanted.items():
        found = values.get(name, allowed[0].encode())
        if not isinstance(found, bytes) or found.decode(errors="replace") not in allowed:
            raise ShapeError(f"{name} is {found!r}, needed one of {allowed}")
    return values
