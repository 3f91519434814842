"""Operands as functions: readers and writers of registers, compiled once per instruction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx.machine import Machine, Mask
from ptx.scalar_types import ScalarType
from ptx.syntax import (
    Address,
    Discard,
    Immediate,
    Negated,
    Operand,
    Pair,
    Register,
    Special,
    Symbol,
    Vector,
)

#: -> (num_threads,) values of a type, or one value for all threads
Read = Callable[[Machine], np.ndarray]
#: values of a type go to the masked threads' register
Write = Callable[[Machine, np.ndarray, Mask], None]
#: an executable instruction
Operation = Callable[[Machine, Mask], None]


class OperandError(ValueError):
    """An operand that does not fit its instruction."""


def reader(operand: Operand, scalar_type: ScalarType) -> Read:
    """A function that gives an operand's values as a type.

    Raises:
        OperandError: no value of that type can be read from the operand.
    """
    if isinstance(operand, Register):
        return _register_reader(operand, scalar_type)
    if isinstance(operand, Immediate):
        constant = immediate_value(operand, scalar_type)
        return lambda _machine: constant
    if isinstance(operand, Negated):
        read = _register_reader(operand.register, scalar_type)
        return lambda machine: ~read(machine)
    if isinstance(operand, Special):
        return _special_reader(operand.name, scalar_type)
    if isinstance(operand, Symbol):
        name = operand.name
        return lambda machine: np.uint64(machine.symbols[name]).astype(scalar_type.dtype)
    raise OperandError(f"{operand} is no value of type {scalar_type.name}")


def _check_holds(register: Register, scalar_type: ScalarType) -> None:
    """Check that values of a type fit into a register."""
    if (register.type.name == "pred") != (scalar_type.name == "pred"):
        raise OperandError(f"{register.name} is .{register.type.name}, not .{scalar_type.name}")
    if register.type.num_bytes < scalar_type.num_bytes:
        raise OperandError(
            f"{register.name} has {register.type.num_bits} bits, .{scalar_type.name} needs "
            f"{scalar_type.num_bits}"
        )


def _register_reader(register: Register, scalar_type: ScalarType) -> Read:
    slot, dtype = register.slot, scalar_type.dtype
    _check_holds(register, scalar_type)
    if register.type.num_bytes > scalar_type.num_bytes:
        bits = scalar_type.bits_dtype
        return lambda machine: machine.registers[slot].astype(bits).view(dtype)
    if register.type.bits_dtype == dtype:
        return lambda machine: machine.registers[slot]
    return lambda machine: machine.registers[slot].view(dtype)


def _special_reader(name: str, scalar_type: ScalarType) -> Read:
    def read(machine: Machine) -> np.ndarray:
        if name == "%dynamic_smem_size":
            return np.asarray(machine.symbols[name]).astype(scalar_type.dtype)
        return np.asarray(machine.geometry.special(name)).astype(scalar_type.dtype)

    return read


def immediate_value(immediate: Immediate, scalar_type: ScalarType) -> np.generic:
    """A constant as a type: integers by their low bits, floats by their value or, untyped, bits."""
    if immediate.kind == "integer":
        if scalar_type.name == "pred":
            return np.bool_(immediate.value != 0)
        bits = immediate.value & ((1 << scalar_type.num_bits) - 1)
        return scalar_type.bits_dtype.type(bits).view(scalar_type.dtype)
    written = {"f32": (np.uint32, np.float32), "f64": (np.uint64, np.float64)}[immediate.kind]
    bits = written[0](immediate.value)
    if scalar_type.num_bytes == bits.itemsize:
        return bits.view(scalar_type.dtype)
    if scalar_type.name in ("f32", "f64"):
        return bits.view(written[1]).astype(scalar_type.dtype)
    raise OperandError(f"a constant of type .{immediate.kind} does not fit .{scalar_type.name}")


def writer(operand: Operand, scalar_type: ScalarType) -> Write:
    """A function that puts values of a type into the operand's register, extended to its width.

    Raises:
        OperandError: the operand is no register that holds such values.
    """
    if isinstance(operand, Discard):
        return lambda _machine, _value, _mask: None
    if not isinstance(operand, Register):
        raise OperandError(f"{operand} is no destination")
    _check_holds(operand, scalar_type)
    slot, bits = operand.slot, operand.type.bits_dtype
    if operand.type.num_bytes == scalar_type.num_bytes:
        return lambda machine, value, mask: _put(machine, slot, value.view(bits), mask)
    extended = np.dtype(f"i{bits.itemsize}") if scalar_type.is_signed else bits
    narrow = scalar_type.dtype if scalar_type.is_signed else scalar_type.bits_dtype
    return lambda machine, value, mask: _put(
        machine, slot, value.view(narrow).astype(extended).view(bits), mask
    )


def _put(machine: Machine, slot: int, value: np.ndarray, mask: Mask) -> None:
    if value.ndim == 0:
        value = np.full(machine.num_threads, value)
    if mask is None:
        machine.registers[slot] = value
        if machine.undefined:
            machine.undefined.pop(slot, None)
        return
    old = machine.registers[slot]
    if old is None:
        machine.registers[slot] = value
        machine.undefined[slot] = ~mask
        return
    machine.registers[slot] = np.where(mask, value, old)
    if slot in machine.undefined:
        machine.undefined[slot] = machine.undefined[slot] & ~mask
        if not machine.undefined[slot].any():
            del machine.undefined[slot]


def address_reader(operand: Operand, symbol_window: int = 0) -> Read:
    """A function that gives [base + offset] as uint64.

    Args:
        symbol_window: added to the address of a variable.
    """
    if not isinstance(operand, Address):
        raise OperandError(f"{operand} is no address")
    base, offset = operand.base, np.int64(operand.offset).view(np.uint64)
    if isinstance(base, Register):
        slot = base.slot
        if base.type.num_bytes == 4:
            # 32-bit addresses wrap at 32 bits.
            narrow = offset.astype(np.uint32)
            return lambda machine: (machine.registers[slot] + narrow).astype(np.uint64)
        return lambda machine: machine.registers[slot] + offset
    if isinstance(base, Immediate):
        constant = np.uint64(base.value) + offset
        return lambda machine: np.full(machine.num_threads, constant)
    name = base.name
    return lambda machine: np.full(
        machine.num_threads, np.uint64(machine.symbols[name] + symbol_window) + offset
    )


def vector_items(operand: Operand) -> tuple[Operand, ...]:
    """Items of a vector operand; a scalar is a vector of one."""
    return operand.items if isinstance(operand, Vector) else (operand,)


def source_slots(operands: tuple[Operand, ...]) -> tuple[int, ...]:
    """Register slots that some operands read."""
    slots: list[int] = []
    for operand in operands:
        if isinstance(operand, Register):
            slots.append(operand.slot)
        elif isinstance(operand, Negated):
            slots.append(operand.register.slot)
        elif isinstance(operand, Address) and isinstance(operand.base, Register):
            slots.append(operand.base.slot)
        elif isinstance(operand, Vector):
            slots += source_slots(operand.items)
        elif isinstance(operand, Pair):
            slots += source_slots((operand.first, operand.second))
    return tuple(slots)
