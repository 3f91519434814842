"""Declarations: registers, variables in memory, kernel parameters, launch bounds."""

from __future__ import annotations

import re
import struct

from ptx.failures import UnsupportedPtx
from ptx.operands import parse_immediate
from ptx.scalar_types import TYPES, ScalarType
from ptx.syntax import Parameter, Variable

_REGISTERS = re.compile(r"\.reg \.(\w+) (.*)")
_RANGE = re.compile(r"([%$\w]+)<(\d+)>")
_VARIABLE = re.compile(
    r"(?:\.(?:visible|extern|weak)\s+)?\.(shared|local|global|const)\s+(?:\.attribute\([^)]*\)\s+)?"
    r"(?:\.align\s+(\d+)\s+)?(?:\.v(\d)\s+)?\.(\w+)\s+([$\w]+)((?:\s*\[\d*\])*)\s*(?:=\s*(.*))?",
    re.S,
)
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\b)?(?:\s*\.(?:global|const|shared|local)\b)?"
    r"(?:\s*\.align\s+\d+\b)?\s*([$\w]+)\s*(?:\[(\d+)\])?"
)


def parse_registers(text: str, *, line: int) -> list[tuple[str, ScalarType]]:
    """ ".reg .b32 %r<3>, a" -> [("%r0", b32), ("%r1", b32), ("%r2", b32), ("a", b32)]."""
    match = _REGISTERS.fullmatch(text)
    if match is None or match[1] not in TYPES:
        raise UnsupportedPtx("unknown register declaration", line=line, text=text)
    names = []
    for name in match[2].replace(" ", "").split(","):
        ranged = _RANGE.fullmatch(name)
        names += [f"{ranged[1]}{i}" for i in range(int(ranged[2]))] if ranged else [name]
    return [(name, TYPES[match[1]]) for name in names]


def parse_variable(text: str, *, line: int) -> tuple[str, Variable]:
    """A variable and its state space; size None where the brackets are empty."""
    match = _VARIABLE.fullmatch(text.strip())
    if match is None or match[4] not in TYPES:
        raise UnsupportedPtx("unknown variable declaration", line=line, text=text)
    space, alignment, lanes, type_name, name, brackets, initial = match.groups()
    scalar_type = TYPES[type_name]
    extents = re.findall(r"\[(\d*)\]", brackets)
    size: int | None = scalar_type.num_bytes * int(lanes or 1)
    for extent in extents:
        size = size * int(extent) if extent and size is not None else None
    values = _initial_bytes(initial, scalar_type, line=line, text=text) if initial else None
    return space, Variable(
        name=name,
        size=size,
        alignment=int(alignment or scalar_type.num_bytes * int(lanes or 1)),
        initial=values,
    )


def _initial_bytes(initial: str, scalar_type: ScalarType, *, line: int, text: str) -> bytes:
    data = b""
    for item in re.sub(r"[{}\s]", "", initial).split(","):
        immediate = parse_immediate(item)
        if immediate is None:
            raise UnsupportedPtx(f"unknown initial value {item!r}", line=line, text=text)
        bits = immediate.value & ((1 << scalar_type.num_bits) - 1)
        if immediate.kind == "f64" and scalar_type.name == "f32":
            bits = int.from_bytes(
                struct.pack("<f", struct.unpack("<d", struct.pack("<Q", immediate.value))[0]),
                "little",
            )
        data += bits.to_bytes(scalar_type.num_bytes, "little")
    return data


def parse_parameters(text: str, *, line: int) -> tuple[Parameter, ...]:
    """Parameters of a kernel with their places in parameter memory, each naturally aligned."""
    parameters: list[Parameter] = []
    offset = 0
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        match = _PARAMETER.fullmatch(part)
        if match is None or match[2] not in TYPES:
            raise UnsupportedPtx("unknown parameter", line=line, text=part)
        alignment, type_name, name, count = match.groups()
        scalar_type = TYPES[type_name]
        step = int(alignment or scalar_type.num_bytes)
        offset = -(-offset // step) * step
        parameter = Parameter(name=name, type=scalar_type, count=int(count or 1), offset=offset)
        parameters.append(parameter)
        offset += parameter.size
    return tuple(parameters)


def max_threads(directives: str) -> int | None:
    """Threads that .maxntid or .reqntid allow in a block; None without them."""
    match = re.search(r"\.(?:maxntid|reqntid)\s+([\d\s,]+)", directives)
    if match is None:
        return None
    product = 1
    for extent in match[1].split(","):
        product *= int(extent)
    return product
