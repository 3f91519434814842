"""The ops of ONNX domain `vq4dit`, version 1: the single source for every backend.

Export writes nodes by it, function bodies derive from it, the ONNX Runtime library and the GPU
plugins take their attributes from it. design: all inputs are required (a missing bias is a zero
bias), accumulation is float32.

    CodebookGemm          x T (..., I), codebook T (R, K, d), assignments int8, bias T (O)
                          -> act(x W^T + bias), T (..., O)
    CodebookGemmResidual  x T (B, S, I), codebook, assignments, bias, gate T (B, O),
                          residual T2 (B, S, O) -> residual + gate[:, None] (x W^T + bias), T2
    CodebookDecode        codebook T, assignments -> W T (O, I)

T is float32, float16 or (GPU plugins only) bfloat16. T2 is float32: the residual stream between the
blocks stays float32 also in float16 models, since a sum over the depth loses bits in float16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vq4dit.errors import ShapeError

from .layout import AssignmentLayout, GroupOrder, Layout
from .reference import ACTIVATIONS

DOMAIN = "vq4dit"
VERSION = 1
PLUGIN_NAMESPACE = "vq4dit"
PLUGIN_VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class OpSchema:
    """Name, inputs and attribute names of one op, in order."""

    name: str
    inputs: tuple[str, ...]
    attributes: tuple[str, ...]


_LAYOUT_ATTRIBUTES = (
    "in_features",
    "codebook_size",
    "sub_vector_len",
    "group_order",
    "assignment_layout",
)
_PLUGIN_ATTRIBUTES = ("plugin_namespace", "plugin_version")

CODEBOOK_GEMM = OpSchema(
    name="CodebookGemm",
    inputs=("x", "codebook", "assignments", "bias"),
    attributes=(*_LAYOUT_ATTRIBUTES, "activation", *_PLUGIN_ATTRIBUTES),
)
CODEBOOK_GEMM_RESIDUAL = OpSchema(
    name="CodebookGemmResidual",
    inputs=("x", "codebook", "assignments", "bias", "gate", "residual"),
    attributes=(*_LAYOUT_ATTRIBUTES, *_PLUGIN_ATTRIBUTES),
)
CODEBOOK_DECODE = OpSchema(
    name="CodebookDecode",
    inputs=("codebook", "assignments"),
    attributes=(*_LAYOUT_ATTRIBUTES, *_PLUGIN_ATTRIBUTES),
)
OPS = {op.name: op for op in (CODEBOOK_GEMM, CODEBOOK_GEMM_RESIDUAL, CODEBOOK_DECODE)}


def attributes_from_layout(
    op: OpSchema, layout: Layout, *, activation: str = "none"
) -> dict[str, int | str]:
    """All attributes of a node of `op`, in the schema's order."""
    values: dict[str, int | str] = {
        "in_features": layout.in_features,
        "codebook_size": layout.codebook_size,
        "sub_vector_len": layout.sub_vector_len,
        "group_order": int(layout.group_order),
        "assignment_layout": int(layout.assignment_layout),
        "activation": activation,
        "plugin_namespace": PLUGIN_NAMESPACE,
        "plugin_version": PLUGIN_VERSION,
    }
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; needed one of {ACTIVATIONS}")
    return {name: values[name] for name in op.attributes}


def layout_from_attributes(attributes: Mapping[str, Any]) -> Layout:
    """The layout that a node's attributes describe; ShapeError where they do not fit."""
    missing = [name for name in _LAYOUT_ATTRIBUTES if name not in attributes]
    if missing:
        raise ShapeError(f"node lacks the attributes {missing}")
    return Layout(
        in_features=int(attributes["in_features"]),
        codebook_size=int(attributes["codebook_size"]),
        sub_vector_len=int(attributes["sub_vector_len"]),
        group_order=GroupOrder(int(attributes["group_order"])),
        assignment_layout=AssignmentLayout(int(attributes["assignment_layout"])),
    )


def output_shape(
    op: OpSchema, layout: Layout, input_shapes: Sequence[tuple[int, ...]]
) -> tuple[int, ...]:
    """Shape inference: the output's shape from the inputs' shapes, in the schema's order.

    Raises:
        ShapeError: an input's shape does not fit the layout or another input.
    """
    shapes = dict(zip(op.inputs, input_shapes, strict=True))
    out_features = layout.out_features_from(shapes["assignments"])
    codebook = shapes["codebook"]
    if len(codebook) != 3 or codebook[1:] != (layout.codebook_size, layout.sub_vector_len):
        raise ShapeError(
            f"codebook has shape {codebook}, needed "
            f"(R, {layout.codebook_size}, {layout.sub_vector_len})"
        )
    if codebook[0] < 1 or out_features % codebook[0]:
        raise ShapeError(f"out_features {out_features} is not a multiple of R = {codebook[0]}")
    if op is CODEBOOK_DECODE:
        return (out_features, layout.in_features)
    x = shapes["x"]
    if not x or x[-1] != layout.in_features:
        raise ShapeError(f"x has shape {x}, needed (..., {layout.in_features})")
    if shapes["bias"] != (out_features,):
        raise ShapeError(f"bias has shape {shapes['bias']}, needed ({out_features},)")
    result = (*x[:-1], out_features)
    if op is CODEBOOK_GEMM_RESIDUAL:
        if len(x) != 3 or shapes["residual"] != result:
            raise ShapeError(f"residual has shape {shapes['residual']}, needed {result}")
        if shapes["gate"] != (x[0], out_features):
            raise ShapeError(f"gate has shape {shapes['gate']}, needed {(x[0], out_features)}")
    return result
