"""How much a node has to do: floating-point operations and bytes, from the shapes of its tensors.

A multiply-add counts as two operations. A vector-quantized product counts like the dense product
that it stands for, although the kernels do fewer operations: the figure says how fast a dense
kernel would have to be. Bytes are what must be read and written once; what caches save or spill
is not known. Nothing is measured here.
"""

from __future__ import annotations

from math import prod

from vq4dit.runtime.session import NodeTime, Shape

_MATRIX_PRODUCTS = frozenset(
    {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "CodebookGemm", "CodebookGemmResidual"}
)
_CONVOLUTIONS = frozenset({"Conv", "FusedConv"})

#: Operations per output element; all that is not here moves data only.
_PER_ELEMENT = {
    "LayerNormalization": 7, "InstanceNormalization": 7, "Softmax": 5, "QuickGelu": 4, "Gelu": 8,
    "FastGelu": 8, "BiasGelu": 9, "Sigmoid": 3, "Add": 1, "Sub": 1, "Mul": 1, "Div": 1, "Exp": 1,
    "Sin": 1, "Cos": 1, "Tanh": 1, "Neg": 1, "Sum": 1,
}  # fmt: skip

_FLOAT32_BYTES = 4


def operations(node: NodeTime) -> int:
    """Floating-point operations of one run of the node; 0 for data movement and unknown ops."""
    if not node.outputs:
        return 0
    size = prod(node.outputs[0])
    if node.op == "MultiHeadAttention" and len(node.inputs) > 1:
        return 4 * size * node.inputs[1][1]
    if node.op in _MATRIX_PRODUCTS and node.inputs and node.inputs[0]:
        return 2 * size * node.inputs[0][-1]
    if node.op in _CONVOLUTIONS and len(node.inputs) > 1:
        return 2 * size * prod(node.inputs[1][1:])
    return size * _PER_ELEMENT.get(node.op, 0)


def moved_bytes(node: NodeTime) -> int:
    """Bytes that the node reads and writes at the least."""
    return node.activation_bytes + node.weight_bytes + hidden_weight_bytes(node) + node.output_bytes


def hidden_weight_bytes(node: NodeTime) -> int:
    """Bytes of a weight that ONNX Runtime has repacked and so no longer lists among the inputs."""
    if node.op not in _MATRIX_PRODUCTS or node.op.startswith("Codebook") or not node.inputs:
        return 0
    listed = [shape for shape in node.inputs[1:] if len(shape) > 1]
    if listed or not node.inputs[0] or not node.outputs:
        return 0
    element_bytes = node.output_bytes // max(prod(node.outputs[0]), 1) or _FLOAT32_BYTES
    return node.inputs[0][-1] * _last(node.outputs[0]) * element_bytes


def _last(shape: Shape) -> int:
    return shape[-1] if shape else 1
