"""Writes tiny ONNX models and reads the nodes of any, byte by byte: no onnx package is needed.

Knows of ONNX what profiling needs: float32 tensors of fixed shape and integer attributes to write,
names of nodes and tensors to read.
Source: onnx.proto (field numbers) and the protocol buffers' wire format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_IR_VERSION, _OPSET = 8, 17
_FLOAT = 1
_ATTRIBUTE_INT = 2


@dataclass(frozen=True, kw_only=True)
class WireNode:
    """One node: op type, names of its tensors, integer attributes, name (read only)."""

    op: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    integers: Mapping[str, int] = field(default_factory=dict)
    name: str = ""


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


def read_nodes(model: bytes) -> list[WireNode]:
    """The nodes of a serialized ModelProto's graph, in order, without attributes and subgraphs.

    Raises:
        ValueError: not a serialized message.
    """
    graph = dict(_fields(model)).get(7, b"")
    nodes = []
    for number, content in _fields(graph):
        if number != 1:
            continue
        texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}
        for key, value in _fields(content):
            if key in texts:
                texts[key].append(value.decode())
        nodes.append(
            WireNode(
                op="".join(texts[4]), name="".join(texts[3]), inputs=texts[1], outputs=texts[2]
            )
        )
    return nodes


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of the length-delimited fields of a message; others are passed over."""
    place = 0
    while place < len(message):
        key, place = _read_varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, place = _read_varint(message, place)
        elif kind == _BYTES:
            length, place = _read_varint(message, place)
            if place + length > len(message):
                raise ValueError(f"field {number} ends {place + length - len(message)} bytes late")
            yield number, message[place : place + length]
            place += length
        elif kind in (_FIXED32, _FIXED64):
            place += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"field {number} has the unknown wire type {kind}")


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """A number and the place behind it."""
    value = shift = 0
    while place < len(message):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            return value, place
    raise ValueError("the message ends within a number")


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
