"""What the function bodies of the ops share: a builder of nodes, and everything behind the decode.

The packed bytes pass through DequantizeLinear with scale 1: ONNX Runtime and TensorRT keep an INT8
constant in front of it as it is, and neither folds the dense weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vq4dit.plugins.schema import CODEBOOK_GEMM_RESIDUAL, DOMAIN, OpSchema

from .graph import OPSET

#: What is added to a stored int8 to get the packed byte.
_BYTE_OFFSET = 128


class BodyBuilder:
    """Nodes of a function or of a branch in it; no tensor has the name of an outer one."""

    def __init__(self, prefix: str = "vq") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.prefix = prefix

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; returns its output, which is called prefix + number."""
        output = f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Add a Constant node."""
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(values, dtype)))

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """Add a Reshape to a fixed shape."""
        return self.op("Reshape", x, self.constant(shape))


def add_bytes(body: BodyBuilder) -> str:
    """assignments int8 -> the packed bytes 0..255 as int32, same shape."""
    stored = body.op("DequantizeLinear", "assignments", body.constant(1, np.float32))
    numbers = body.op("Cast", stored, to=TensorProto.INT32)
    return body.op("Add", numbers, body.constant(_BYTE_OFFSET, np.int32))


def add_linear(body: BodyBuilder, weight: str, *, is_matrix: bool = False) -> str:
    """x (..., I), weight (O, I), bias (O) -> x W^T + bias.

    With is_matrix x is (B, I), and Gemm takes the weight as it lies: for few rows TensorRT-RTX
    would write the transposed weight to memory first.
    """
    if is_matrix:
        return body.op("Gemm", "x", weight, "bias", transB=1)
    transposed = body.op("Transpose", weight, perm=[1, 0])  # (I, O)
    return body.op("Add", body.op("MatMul", "x", transposed), "bias")


def add_gate(body: BodyBuilder, x: str) -> str:
    """residual + gate[:, None] * x; the residual stream is float32 whatever x is."""
    gate = body.op("Unsqueeze", "gate", body.constant([1]))  # (B, 1, O)
    gated = body.op("Cast", body.op("Mul", gate, x), to=TensorProto.FLOAT)
    return body.op("Add", "residual", gated)


def add_activation(body: BodyBuilder, x: str, activation: str) -> str:
    """One of the op's activations; the name of its last tensor is new."""
    if activation == "gelu_tanh":
        return body.op("Gelu", x, approximate="tanh")
    if activation == "silu":
        return body.op("Mul", x, body.op("Sigmoid", x))
    return body.op("Identity", x)


def add_residual_or_activation(
    body: BodyBuilder, op: OpSchema, linear: str, activation: str
) -> str:
    """What stands behind the linear of an op whose activation is known."""
    if op is CODEBOOK_GEMM_RESIDUAL:
        return add_gate(body, linear)
    return linear if activation == "none" else add_activation(body, linear, activation)


def make_function(
    op: OpSchema, body: BodyBuilder, output: str, *, overload: str = ""
) -> onnx.FunctionProto:
    """The function of an op; it declares every attribute that the op's nodes carry."""
    return helper.make_function(
        DOMAIN,
        op.name,
        list(op.inputs),
        [output],
        body.nodes,
        [helper.make_opsetid("", OPSET)],
        attributes=list(op.attributes),
        overload=overload,
    )
