"""A parsed kernel: declarations, and instructions with their operands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ptx.scalar_types import ScalarType


@dataclass(frozen=True)
class Register:
    """A virtual register; `slot` is its place in the register file."""

    name: str
    slot: int
    type: ScalarType


@dataclass(frozen=True)
class Special:
    """A special register such as %tid.x."""

    name: str


@dataclass(frozen=True)
class Immediate:
    """A constant: an integer, or the bits of a float of the width it was written in."""

    kind: Literal["integer", "f32", "f64"]
    value: int


@dataclass(frozen=True)
class Symbol:
    """The address of a variable or parameter."""

    name: str


@dataclass(frozen=True)
class Address:
    """[base + offset]."""

    base: Register | Symbol | Immediate
    offset: int


@dataclass(frozen=True)
class Vector:
    """{a, b, ...}."""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Negated:
    """!p."""

    register: Register


@dataclass(frozen=True)
class Pair:
    """p|q, two destinations."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Discard:
    """_, a destination that nobody wants."""


Operand = Register | Special | Immediate | Symbol | Address | Vector | Negated | Pair | Discard


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction at its place in the text.

    Attributes:
        index: place in the kernel, from 0; label targets are indices too.
        line: line in the PTX text, from 1.
        text: as written, white space reduced.
        guard: predicate register of @p, or None.
        guard_negated: whether it was @!p.
        opcode: up to the first dot.
        modifiers: the rest of the mnemonic, split at dots.
        operands: in the text's order, destination first.
        target: index of the instruction that a branch goes to.
    """

    index: int
    line: int
    text: str
    guard: Register | None
    guard_negated: bool
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    target: int | None = None


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A declared variable in shared, local, global or constant memory.

    `size` is None for the dynamic shared memory; `initial` is None where nothing is given.
    """

    name: str
    size: int | None
    alignment: int
    initial: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A kernel parameter at its place in parameter memory."""

    name: str
    type: ScalarType
    count: int
    offset: int

    @property
    def size(self) -> int:
        return self.type.num_bytes * self.count


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """An entry point, ready to be compiled to operations."""

    name: str
    parameters: tuple[Parameter, ...]
    instructions: tuple[Instruction, ...]
    num_registers: int
    shared: tuple[Variable, ...]
    local: tuple[Variable, ...]
    globals: tuple[Variable, ...]
    constants: tuple[Variable, ...]
    max_threads: int | None
