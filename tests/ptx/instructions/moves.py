"""mov, ld, st and cvta.

Source: PTX ISA, "Data Movement and Conversion Instructions".
"""

from __future__ import annotations

import numpy as np

from ptx.access import Operation, Write, address_reader, reader, vector_items, writer
from ptx.instructions.elementwise import check_modifiers, operand_type, unsupported
from ptx.instructions.spaces import FETCH, PUT, SPACES, Access, state_space
from ptx.machine import LOCAL_WINDOW, SHARED_WINDOW, Machine, Mask
from ptx.scalar_types import TYPES, ScalarType, bits_type
from ptx.syntax import Address, Instruction, Operand, Symbol, Vector

_CACHE = (
    "nc ca cg cs lu cv wb wt volatile relaxed weak acquire release cta gpu sys "
    "L1::evict_normal L1::evict_unchanged L1::evict_first L1::evict_last L1::no_allocate "
    "L2::evict_normal L2::evict_first L2::evict_last "
    "L2::64B L2::128B L2::256B v2 v4 v8"
)


def move(instruction: Instruction) -> Operation:
    """mov: a register, constant or address; or packing and unpacking of a register's parts."""
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    target, source = instruction.operands
    if isinstance(target, Vector):
        return _unpack(target, source, kind)
    if isinstance(source, Vector):
        return _pack(target, source, kind)
    read, write = reader(source, kind), writer(target, kind)
    return lambda machine, mask: write(machine, read(machine), mask)


def _unpack(target: Vector, source: Operand, kind: ScalarType) -> Operation:
    part = bits_type(kind.num_bytes // len(target.items))
    read = reader(source, kind)
    writes = [writer(item, part) for item in target.items]

    def operation(machine: Machine, mask: Mask) -> None:
        bits = read(machine).view(kind.bits_dtype)
        for place, write in enumerate(writes):
            shifted = bits >> kind.bits_dtype.type(place * part.num_bits)
            write(machine, shifted.astype(part.dtype), mask)

    return operation


def _pack(target: Operand, source: Vector, kind: ScalarType) -> Operation:
    part = bits_type(kind.num_bytes // len(source.items))
    reads = [reader(item, part) for item in source.items]
    write = writer(target, kind)
    wide = kind.bits_dtype.type

    def operation(machine: Machine, mask: Mask) -> None:
        value = wide(0)
        for place, read in enumerate(reads):
            value = value | read(machine).astype(wide) << wide(place * part.num_bits)
        write(machine, value.view(kind.dtype), mask)

    return operation


def convert_address(instruction: Instruction) -> Operation:
    """cvta: between an address in a space and a generic one."""
    check_modifiers(instruction, "to shared shared::cta global const local")
    kind = TYPES["u64"]
    if operand_type(instruction) != kind:
        raise unsupported(instruction, "generic addresses have 64 bits")
    window = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(state_space(instruction), 0)
    shift = np.uint64(window)
    read, write = reader(instruction.operands[1], kind), writer(instruction.operands[0], kind)
    if "to" in instruction.modifiers:
        return lambda machine, mask: write(machine, read(machine) - shift, mask)
    return lambda machine, mask: write(machine, read(machine) + shift, mask)


def load(instruction: Instruction) -> Operation:
    """ld in every space, scalars and vectors."""
    kind = operand_type(instruction)
    check_modifiers(instruction, f"{_CACHE} {' '.join(SPACES)}")
    space = state_space(instruction)
    writes = [writer(item, kind) for item in vector_items(instruction.operands[0])]
    if space == "param":
        return _load_parameter(instruction, kind, writes)
    read_address = address_reader(instruction.operands[1])
    fetch = FETCH[space]
    index = instruction.index

    def operation(machine: Machine, mask: Mask) -> None:
        threads = machine.active(mask)
        access = Access(
            machine=machine, addresses=read_address(machine)[threads], threads=threads, index=index
        )
        values = fetch(access, kind, len(writes))
        for write, value in zip(writes, values, strict=True):
            if len(threads) < machine.num_threads:
                whole = np.zeros(machine.num_threads, kind.dtype)
                whole[threads] = value
                value = whole
            write(machine, value, mask)

    return operation


def _load_parameter(instruction: Instruction, kind: ScalarType, writes: list[Write]) -> Operation:
    address = instruction.operands[1]
    if not isinstance(address, Address):
        raise unsupported(instruction, "no address")
    read_address = address_reader(address)
    base, offset = address.base, address.offset

    def operation(machine: Machine, mask: Mask) -> None:
        if isinstance(base, Symbol):
            starts = np.asarray(machine.symbols[base.name] + offset)
        else:
            starts = read_address(machine)
        for number, write in enumerate(writes):
            places = starts[..., None].astype(np.int64) + np.arange(kind.num_bytes)
            raw = machine.parameters[places + number * kind.num_bytes]
            write(machine, np.ascontiguousarray(raw).view(kind.dtype)[..., 0], mask)

    return operation


def store(instruction: Instruction) -> Operation:
    """st in every space, scalars and vectors."""
    kind = operand_type(instruction)
    check_modifiers(instruction, f"{_CACHE} {' '.join(SPACES)}")
    reads = [reader(item, kind) for item in vector_items(instruction.operands[1])]
    read_address = address_reader(instruction.operands[0])
    put = PUT[state_space(instruction)]
    index = instruction.index

    def operation(machine: Machine, mask: Mask) -> None:
        threads = machine.active(mask)
        access = Access(
            machine=machine, addresses=read_address(machine)[threads], threads=threads, index=index
        )
        values = [np.broadcast_to(read(machine), machine.num_threads)[threads] for read in reads]
        put(access, values)

    return operation
