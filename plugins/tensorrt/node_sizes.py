"""What TensorRT tells of a node's shapes: checked, and as the kernels' integers.

A size is a number where it is known when the engine is built, else a formula over dynamic sizes.
TensorRT asks once without any sizes.
"""

from __future__ import annotations

from typing import Any

from vq4dit.errors import ShapeError

from .. import schema
from ..layout import Layout


def check_weights(op: schema.OpSchema, layout: Layout, inputs: dict[str, Any]) -> None:
    """Check the shapes of the weights, where TensorRT tells them; it asks once without."""
    names = [n for n in ("codebook", "assignments", "bias") if n in inputs]
    shapes = {name: _known_shape(inputs[name]) for name in names}
    codebook, assignments = shapes["codebook"], shapes["assignments"]
    if codebook is None or assignments is None:
        return
    weight = schema.output_shape(schema.CODEBOOK_DECODE, layout, [codebook, assignments])
    if "bias" in shapes and shapes["bias"] not in (None, weight[:1]):
        raise ShapeError(f"{op.name}: bias has shape {shapes['bias']}, needed {weight[:1]}")
    if "x" in inputs and _known_size(inputs["x"], -1) not in (None, layout.in_features):
        raise ShapeError(
            f"{op.name}: x has rows of {_known_size(inputs['x'], -1)}, needed {layout.in_features}"
        )


def kernel_sizes(op: schema.OpSchema, layout: Layout, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the kernels' integers are called -> a number, or a formula over dynamic sizes.

    Raises:
        ShapeError: a weight's shape is not known when the engine is built.
    """
    codebook, assignments = (_known_shape(inputs[n]) for n in ("codebook", "assignments"))
    if codebook is None or assignments is None:
        raise ShapeError(f"{op.name}: codebook and assignments must be constants of the network")
    sizes: dict[str, Any] = {
        "out_features": layout.out_features_from(assignments),
        "in_features": layout.in_features,
        "row_groups": codebook[0],
    }
    if op is schema.CODEBOOK_DECODE:
        return sizes
    rows = [inputs["x"].shape_expr[i] for i in range(inputs["x"].ndim - 1)]
    m: Any = 1
    for size in rows:
        m = size * m
    sizes["m"] = m
    if op is schema.CODEBOOK_GEMM_RESIDUAL:
        sizes["sequence"] = rows[1]
    return sizes


def _known_shape(tensor: Any) -> tuple[int, ...] | None:
    """The shape, None where any size is not known."""
    sizes = [_known_size(tensor, axis) for axis in range(tensor.ndim)]
    return None if None in sizes else tuple(int(size) for size in sizes if size is not None)


def _known_size(tensor: Any, axis: int) -> int | None:
    size = tensor.shape_expr[axis]
    if size.is_fake or not size.is_constant:
        return None
    return int(size.constant_value())
