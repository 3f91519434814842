"""Writes tiny ONNX models byte by byte, so that probes of the machine need no onnx package.

Knows of ONNX what the probes need: float32 tensors of fixed shape, integer attributes.
Source: onnx.proto (field numbers) and the protocol buffers' wire format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_VARINT, _BYTES = 0, 2
_IR_VERSION, _OPSET = 8, 17
_FLOAT = 1
_ATTRIBUTE_INT = 2


@dataclass(frozen=True, kw_only=True)
class WireNode:
    """One node: op type, names of its tensors, integer attributes."""

    op: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    integers: Mapping[str, int] = field(default_factory=dict)


def model_bytes(
    nodes: Sequence[WireNode],
    *,
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
) -> bytes:
    """A serialized ModelProto; tensors are float32 of the given shapes, nodes in order."""
    graph = b"".join(_message(1, _node(index, node)) for index, node in enumerate(nodes))
    graph += _message(2, b"probe")
    graph += b"".join(_message(11, _value_info(*item)) for item in inputs.items())
    graph += b"".join(_message(12, _value_info(*item)) for item in outputs.items())
    opset = _message(1, b"") + _integer(2, _OPSET)
    return _integer(1, _IR_VERSION) + _message(7, graph) + _message(8, opset)


def _node(index: int, node: WireNode) -> bytes:
    body = b"".join(_message(1, name.encode()) for name in node.inputs)
    body += b"".join(_message(2, name.encode()) for name in node.outputs)
    body += _message(3, f"probe.{index}".encode()) + _message(4, node.op.encode())
    for name, value in node.integers.items():
        attribute = _message(1, name.encode()) + _integer(3, value) + _integer(20, _ATTRIBUTE_INT)
        body += _message(5, attribute)
    return body


def _value_info(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_message(1, _integer(1, size)) for size in shape)
    tensor = _integer(1, _FLOAT) + _message(2, dims)
    return _message(1, name.encode()) + _message(2, _message(1, tensor))


def _message(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first, the high bit on all but the last."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
