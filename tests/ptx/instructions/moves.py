"""mov, ld, st and cvta.

Source: PTX ISA, "Data Movement and Conversion Instructions".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx.access import Operation, address_reader, reader, vector_items, writer
from ptx.failures import FailureKind
from ptx.faults import Fault
from ptx.instructions.elementwise import check_modifiers, operand_type, unsupported
from ptx.machine import LOCAL_WINDOW, SHARED_WINDOW, Machine, Mask
from ptx.scalar_types import TYPES, ScalarType, bits_type
from ptx.syntax import Address, Instruction, Symbol, Vector
from ptx.wavefronts import count_wavefronts

_SPACES = ("param", "shared", "shared::cta", "global", "const", "local")
_CACHE = (
    "nc ca cg cs lu cv wb wt volatile relaxed weak acquire release cta gpu sys "
    "L1::evict_normal L1::evict_unchanged L1::evict_first L1::evict_last L1::no_allocate "
    "L2::evict_normal L2::evict_first L2::evict_last "
    "L2::64B L2::128B L2::256B v2 v4 v8"
)


def state_space(instruction: Instruction) -> str:
    """Where the instruction's address points; generic where it does not say."""
    for modifier in instruction.modifiers:
        if modifier in _SPACES:
            return modifier.removesuffix("::cta")
    return "generic"


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


def _unpack(target: Vector, source, kind: ScalarType) -> Operation:
    part = bits_type(kind.num_bytes // len(target.items))
    read = reader(source, kind)
    writes = [writer(item, part) for item in target.items]

    def operation(machine: Machine, mask: Mask) -> None:
        bits = read(machine).view(kind.bits_dtype)
        for place, write in enumerate(writes):
            shifted = bits >> kind.bits_dtype.type(place * part.num_bits)
            write(machine, shifted.astype(part.dtype), mask)

    return operation


def _pack(target, source: Vector, kind: ScalarType) -> Operation:
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
    check_modifiers(instruction, f"{_CACHE} {' '.join(_SPACES)}")
    space = state_space(instruction)
    writes = [writer(item, kind) for item in vector_items(instruction.operands[0])]
    if space == "param":
        return _load_parameter(instruction, kind, writes)
    read_address = address_reader(instruction.operands[1])
    fetch = _FETCH[space]
    index = instruction.index

    def operation(machine: Machine, mask: Mask) -> None:
        threads = machine.active(mask)
        addresses = read_address(machine)[threads]
        values = fetch(machine, addresses, kind, len(writes), threads, index)
        for write, value in zip(writes, values, strict=True):
            if len(threads) < machine.num_threads:
                whole = np.zeros(machine.num_threads, kind.dtype)
                whole[threads] = value
                value = whole
            write(machine, value, mask)

    return operation


def _load_parameter(instruction: Instruction, kind: ScalarType, writes: list) -> Operation:
    address = instruction.operands[1]
    if not isinstance(address, Address):
        raise unsupported(instruction, "no address")
    read_address = address_reader(address)
    is_fixed = isinstance(address.base, Symbol)

    def operation(machine: Machine, mask: Mask) -> None:
        if is_fixed:
            starts = np.uint64(machine.symbols[address.base.name] + address.offset)
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
    check_modifiers(instruction, f"{_CACHE} {' '.join(_SPACES)}")
    reads = [reader(item, kind) for item in vector_items(instruction.operands[1])]
    read_address = address_reader(instruction.operands[0])
    put = _PUT[state_space(instruction)]
    index = instruction.index

    def operation(machine: Machine, mask: Mask) -> None:
        threads = machine.active(mask)
        addresses = read_address(machine)[threads]
        values = [np.broadcast_to(read(machine), machine.num_threads)[threads] for read in reads]
        put(machine, addresses, values, threads, index)

    return operation


def _fetch_shared(machine, addresses, kind, count, threads, index) -> np.ndarray:
    note_wavefronts(machine, addresses, kind.num_bytes * count, threads, index)
    return np.ascontiguousarray(machine.shared.load(addresses, kind, count, threads).T)


def _put_shared(machine, addresses, values, threads, index) -> None:
    num_bytes = values[0].dtype.itemsize * len(values)
    note_wavefronts(machine, addresses, num_bytes, threads, index)
    machine.shared.store(addresses, values, threads)


def note_wavefronts(
    machine: Machine, addresses: np.ndarray, num_bytes: int, threads: np.ndarray, index: int
) -> None:
    """Count the wavefronts of one access to shared memory."""
    if len(threads):
        found, least = count_wavefronts(addresses, num_bytes, threads)
        machine.statistics.add_wavefronts(index, found, least)


def _fetch_generic(machine, addresses, kind, count, threads, index) -> list[np.ndarray]:
    values = [np.empty(len(threads), kind.dtype) for _ in range(count)]
    for space, chosen, within in _windows(addresses):
        parts = _FETCH[space](machine, within, kind, count, threads[chosen], index)
        for value, part in zip(values, parts, strict=True):
            value[chosen] = part
    return values


def _put_generic(machine, addresses, values, threads, index) -> None:
    for space, chosen, within in _windows(addresses):
        parts = [value[chosen] for value in values]
        _PUT[space](machine, within, parts, threads[chosen], index)


def _windows(addresses: np.ndarray):
    """Yield (space, places, addresses in that space) of generic addresses."""
    is_local = addresses >= np.uint64(LOCAL_WINDOW)
    is_shared = (addresses >= np.uint64(SHARED_WINDOW)) & ~is_local
    is_global = ~is_local & ~is_shared
    for space, chosen, window in (
        ("global", is_global, 0),
        ("shared", is_shared, SHARED_WINDOW),
        ("local", is_local, LOCAL_WINDOW),
    ):
        if chosen.any():
            yield space, np.flatnonzero(chosen), addresses[chosen] - np.uint64(window)


def _refuse(machine, addresses, values, threads, index) -> None:
    raise Fault(FailureKind.READ_ONLY, "constant memory", thread=int(threads[0]))


_FETCH: dict[str, Callable] = {
    "global": lambda machine, addresses, kind, count, threads, index: machine.global_memory.load(
        addresses, kind, count, threads
    ),
    "shared": _fetch_shared,
    "local": lambda machine, addresses, kind, count, threads, index: machine.local.load(
        addresses, kind, count, threads
    ),
    "generic": _fetch_generic,
}
_FETCH["const"] = _FETCH["global"]
_PUT: dict[str, Callable] = {
    "global": lambda machine, addresses, values, threads, index: machine.global_memory.store(
        addresses, values, threads
    ),
    "shared": _put_shared,
    "local": lambda machine, addresses, values, threads, index: machine.local.store(
        addresses, values, threads
    ),
    "generic": _put_generic,
    "const": _refuse,
}
