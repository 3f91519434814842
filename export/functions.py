"""Function bodies of the ops of domain `vq4dit` for every configuration at once, form `function`.

One body per op, in standard ONNX ops of opset 20: sizes are computed from the node's attributes and
the inputs' shapes, and a runtime folds them when it loads the model. FunctionProto's `overload`
would allow one plain body per configuration, but ONNX Runtime 1.23 ignores it: a model with several
is refused or gives wrong numbers. The oracle is `vq4dit.plugins.reference`; `specialized` has the
bodies of form `inlined`, for parsers that want fixed shapes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from vq4dit.plugins.layout import WORD_POSITIONS, AssignmentLayout, GroupOrder
from vq4dit.plugins.schema import CODEBOOK_DECODE, CODEBOOK_GEMM, OpSchema

from .bodies import BodyBuilder, add_activation, add_bytes, add_gate, add_linear, make_function


def function_body(op: OpSchema) -> onnx.FunctionProto:
    """The function of an op that serves every configuration and element type float32 or float16."""
    body = BodyBuilder()
    weight = _add_decode(body)
    if op is CODEBOOK_DECODE:
        return make_function(op, body, weight)
    linear = add_linear(body, weight)
    if op is CODEBOOK_GEMM:
        return make_function(op, body, _add_chosen_activation(body, linear))
    return make_function(op, body, add_gate(body, linear))


def _add_decode(body: BodyBuilder) -> str:
    """codebook (R, K, d), assignments int8 -> weight (O, I)."""
    in_features, codebook_size, length, group_order = (
        _add_attribute(body, name)
        for name in ("in_features", "codebook_size", "sub_vector_len", "group_order")
    )
    num_sub_vectors = body.op("Div", in_features, length)
    rows = _add_rows(body, num_sub_vectors)  # (O, bytes)
    unpacked = _add_unpack(body, rows, codebook_size)  # (O, at least G)
    one, zero, unknown = body.constant([1]), body.constant([0]), body.constant([-1])
    indices = body.op("Slice", unpacked, zero, num_sub_vectors, one)  # (O, G)
    row_groups = body.op("Shape", "codebook", start=0, end=1)
    parts = _add_reshape(body, indices, row_groups, unknown, num_sub_vectors)  # (R, O/R, G)
    # Row o takes codebook o // (O / R): with the rows cut into R parts, part r is r * K on.
    counts = body.op("Range", *(_add_scalar(body, x) for x in (zero, row_groups, one)))
    starts = body.op("Cast", body.op("Mul", counts, codebook_size), to=TensorProto.INT32)
    indices = body.op("Add", parts, body.reshape(starts, [-1, 1, 1]))
    codewords = _add_reshape(body, "codebook", unknown, length)  # (R * K, d)
    gathered = body.op("Gather", codewords, indices, axis=0)  # (R, O/R, G, d)
    # Places (sub-vector t, run, pair) of one period -> columns (run, t, pair); see GroupOrder. The
    # contiguous order is the same with one sub-vector and pairs of one.
    is_contiguous = body.op("Equal", group_order, body.constant([int(GroupOrder.CONTIGUOUS)]))
    contiguous = [one, length, one]
    periods = [body.constant([4]), body.op("Div", length, body.constant([2])), body.constant([2])]
    sizes = [
        body.op("Where", is_contiguous, a, b) for a, b in zip(contiguous, periods, strict=True)
    ]
    split = _add_reshape(body, gathered, unknown, *sizes)
    ordered = body.op("Transpose", split, perm=[0, 2, 1, 3])
    return _add_reshape(body, ordered, unknown, in_features)


def _add_rows(body: BodyBuilder, num_sub_vectors: str) -> str:
    """assignments in either layout -> packed bytes of each row, int32 (O, bytes)."""
    layout = _add_attribute(body, "assignment_layout")
    is_rows = body.op("Equal", layout, body.constant([int(AssignmentLayout.ROWS)]))
    rounded = body.op("Add", num_sub_vectors, body.constant([WORD_POSITIONS - 1]))
    words = body.op("Div", rounded, body.constant([WORD_POSITIONS]))
    outer = body.op("Where", is_rows, body.constant([1]), words)
    inner = body.op("Shape", "assignments", start=-1)
    # ROWS is (1, O, bytes), FOUR_MAJOR (words, O, word_bytes).
    split = _add_reshape(body, add_bytes(body), outer, body.constant([-1]), inner)
    return body.reshape(body.op("Transpose", split, perm=[1, 0, 2]), [0, -1])


def _add_unpack(body: BodyBuilder, rows: str, codebook_size: str) -> str:
    """Bytes (O, bytes) -> indices int32 (O, at least G); bytes are indices where K > 64."""
    above_16, above_64 = (
        body.op("Greater", codebook_size, body.constant([limit])) for limit in (16, 64)
    )

    def digits(branch: BodyBuilder) -> str:
        # Three bytes are four digits to base 64, one byte is two digits to base 16.
        def choose(for_64: int, for_16: int) -> str:
            options = (branch.constant([value]) for value in (for_64, for_16))
            return branch.op("Where", above_16, *options)

        base, zero = choose(64, 16), branch.constant([0])
        places = branch.constant([1, 256, 256**2], np.int32)
        group_bytes = choose(3, 1)
        split = _add_reshape(branch, rows, zero, branch.constant([-1]), group_bytes)
        weighted = branch.op("Mul", split, branch.op("Slice", places, zero, group_bytes))
        numbers = branch.op("ReduceSum", weighted, branch.constant([-1]), keepdims=1)
        exponents = branch.op("Slice", branch.constant([0, 1, 2, 3]), zero, choose(4, 2))
        powers = branch.op("Cast", branch.op("Pow", base, exponents), to=TensorProto.INT32)
        divisor = branch.op("Cast", base, to=TensorProto.INT32)
        shifted = branch.op("Div", numbers, powers)  # (O, groups, digits)
        higher = branch.op("Mul", branch.op("Div", shifted, divisor), divisor)
        return branch.reshape(branch.op("Sub", shifted, higher), [0, -1])

    return _add_if(body, above_64, lambda branch: branch.op("Identity", rows), digits)


def _add_chosen_activation(body: BodyBuilder, x: str) -> str:
    """The activation that the attribute names."""
    name = body.op("Constant")
    body.nodes[-1].attribute.append(_attribute_reference("value_string", "activation"))

    def is_called(builder: BodyBuilder, activation: str) -> str:
        return builder.op("Equal", name, builder.constant(activation, object))

    def other(branch: BodyBuilder) -> str:
        return _add_if(
            branch,
            is_called(branch, "silu"),
            lambda inner: add_activation(inner, x, "silu"),
            lambda inner: add_activation(inner, x, "none"),
        )

    return _add_if(
        body,
        is_called(body, "gelu_tanh"),
        lambda branch: add_activation(branch, x, "gelu_tanh"),
        other,
    )


def _add_if(
    body: BodyBuilder,
    condition: str,
    then: Callable[[BodyBuilder], str],
    otherwise: Callable[[BodyBuilder], str],
) -> str:
    """An If whose branches are written by two functions; runtimes fold it where it is constant."""
    graphs = {}
    for name, write in (("then_branch", then), ("else_branch", otherwise)):
        branch = BodyBuilder(f"{body.prefix}{len(body.nodes)}_{name[0]}")
        output = onnx.ValueInfoProto(name=write(branch))
        graphs[name] = helper.make_graph(branch.nodes, name, [], [output])
    return body.op("If", condition, **graphs)


def _add_attribute(body: BodyBuilder, name: str) -> str:
    """An integer attribute of the node as a tensor of shape (1,)."""
    scalar = body.op("Constant")
    body.nodes[-1].attribute.append(_attribute_reference("value_int", name))
    return body.reshape(scalar, [1])


def _attribute_reference(name: str, attribute: str) -> onnx.AttributeProto:
    """The attribute `name` of a Constant node, taken from the function's attribute."""
    kind = onnx.AttributeProto.STRING if name == "value_string" else onnx.AttributeProto.INT
    return onnx.AttributeProto(name=name, ref_attr_name=attribute, type=kind)


def _add_scalar(body: BodyBuilder, x: str) -> str:
    """Shape (1,) -> shape ()."""
    return body.op("Squeeze", x, body.constant([0]))


def _add_reshape(body: BodyBuilder, x: str, *sizes: str) -> str:
    """Reshape to sizes that are tensors of shape (1,)."""
    return body.op("Reshape", x, body.op("Concat", *sizes, axis=0))
