"""Function bodies of the ops of domain `vq4dit` for one configuration, form `inlined`.

Every shape is fixed but the number of rows, which is what parsers like TensorRT's want. The
configurations are told apart by `overload`, which the inliner knows. Integer division instead of
BitShift, since TensorRT has the former only. The oracle is `vq4dit.plugins.reference`.
"""

from __future__ import annotations

import numpy as np
import onnx

from vq4dit.plugins.layout import AssignmentLayout, GroupOrder, Layout
from vq4dit.plugins.reference import ACTIVATIONS
from vq4dit.plugins.schema import CODEBOOK_DECODE, OpSchema

from .bodies import (
    BodyBuilder,
    add_bytes,
    add_linear,
    add_residual_or_activation,
    make_function,
)


def specialized_function(
    op: OpSchema,
    layout: Layout,
    *,
    row_groups: int,
    activation: str = "none",
    is_matrix: bool = False,
) -> onnx.FunctionProto:
    """Body of one configuration of an op, for float32 and float16.

    Args:
        op: one of `vq4dit.plugins.schema.OPS`.
        layout: sizes, column order and byte order; any number of rows O that R divides.
        row_groups: R, codebooks per weight.
        activation: of CodebookGemm, one of `vq4dit.plugins.reference.ACTIVATIONS`.
        is_matrix: x of CodebookGemm is (B, I).
    Returns:
        A function of the op's name whose `overload` names the configuration.
    Raises:
        ValueError: the activation is unknown.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"no function body for activation {activation!r}")
    body = BodyBuilder()
    output = _add_decode(body, layout, row_groups)
    if op is not CODEBOOK_DECODE:
        linear = add_linear(body, output, is_matrix=is_matrix)
        output = add_residual_or_activation(body, op, linear, activation)
    overload = overload_name(
        layout, row_groups=row_groups, activation=activation, is_matrix=is_matrix
    )
    return make_function(op, body, output, overload=overload)


def overload_name(
    layout: Layout, *, row_groups: int, activation: str, is_matrix: bool = False
) -> str:
    """Name of a configuration; equal exactly where the bodies are equal."""
    parts = (
        f"i{layout.in_features}",
        f"k{layout.codebook_size}",
        f"d{layout.sub_vector_len}",
        f"r{row_groups}",
        layout.group_order.name.lower(),
        layout.assignment_layout.name.lower(),
        activation,
        *(["matrix"] if is_matrix else []),
    )
    return "_".join(parts)


def _add_decode(body: BodyBuilder, layout: Layout, row_groups: int) -> str:
    """codebook (R, K, d), assignments int8 -> weight (O, I)."""
    size, length = layout.codebook_size, layout.sub_vector_len
    indices = _add_unpack(body, _add_rows(body, layout), layout)  # (O, G)
    if row_groups > 1:
        # Row o takes codebook o // (O / R): with the rows cut into R parts, part r is r * K on.
        parts = body.reshape(indices, [row_groups, -1, layout.num_sub_vectors])  # (R, O/R, G)
        starts = np.arange(row_groups).reshape(-1, 1, 1) * size
        indices = body.op("Add", parts, body.constant(starts, np.int32))
    codewords = body.reshape("codebook", [-1, length])  # (R * K, d)
    gathered = body.op("Gather", codewords, indices, axis=0)  # (..., G, d)
    if layout.group_order != GroupOrder.CONTIGUOUS:
        # Places (sub-vector t, run, pair) of one period -> columns (run, t, pair); see GroupOrder.
        split = body.reshape(gathered, [-1, 4, length // 2, 2])
        gathered = body.op("Transpose", split, perm=[0, 2, 1, 3])
    return body.reshape(gathered, [-1, layout.in_features])


def _add_rows(body: BodyBuilder, layout: Layout) -> str:
    """assignments -> the packed bytes 0..255 as int32 (O, bytes), rows padded to whole words."""
    raw = add_bytes(body)
    if layout.assignment_layout == AssignmentLayout.FOUR_MAJOR:
        words, _, word_bytes = layout.assignments_shape(1)
        turned = body.op("Transpose", raw, perm=[1, 0, 2])  # (O, words, word_bytes)
        raw = body.reshape(turned, [-1, words * word_bytes])
    return raw


def _add_unpack(body: BodyBuilder, raw: str, layout: Layout) -> str:
    """Bytes (O, bytes) -> indices int32 (O, G): number -> its digits to base 16 or 64."""
    row_bytes = layout.bytes_per_row
    if layout.assignment_layout == AssignmentLayout.FOUR_MAJOR:
        words, _, word_bytes = layout.assignments_shape(1)
        row_bytes = words * word_bytes
    if layout.index_bits == 8:
        return _add_cut(body, raw, row_bytes, layout.num_sub_vectors)
    base = 1 << layout.index_bits
    group_bytes, digits = (1, 2) if layout.index_bits == 4 else (3, 4)
    split = body.reshape(raw, [-1, row_bytes // group_bytes, group_bytes])
    if group_bytes > 1:
        places = body.constant([256**i for i in range(group_bytes)], np.int32)
        axis = body.constant([-1])
        split = body.op("ReduceSum", body.op("Mul", split, places), axis, keepdims=1)
    powers = body.constant([base**i for i in range(digits)], np.int32)
    shifted = body.op("Div", split, powers)  # (O, groups, digits)
    base_constant = body.constant(base, np.int32)
    higher = body.op("Mul", body.op("Div", shifted, base_constant), base_constant)
    indices_per_row = row_bytes // group_bytes * digits
    indices = body.reshape(body.op("Sub", shifted, higher), [-1, indices_per_row])
    return _add_cut(body, indices, indices_per_row, layout.num_sub_vectors)


def _add_cut(body: BodyBuilder, x: str, found: int, needed: int) -> str:
    """Drop the padding behind column `needed`."""
    if found == needed:
        return x
    starts, ends, axes = (body.constant([bound]) for bound in (0, needed, 1))
    return body.op("Slice", x, starts, ends, axes)
