"""atom and red on global and shared memory.

Source: PTX ISA, "Parallel Synchronization and Communication Instructions: atom, red".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx.access import Operation, address_reader, reader, writer
from ptx.float_formats import FORMATS
from ptx.global_memory import GlobalAccess
from ptx.instructions.elementwise import check_modifiers, operand_type, unsupported
from ptx.instructions.spaces import state_space
from ptx.machine import SHARED_WINDOW, Machine, Mask
from ptx.scalar_types import ScalarType
from ptx.shared_memory import SharedMemory
from ptx.syntax import Instruction

_KNOWN = "global shared shared::cta gpu cta sys relaxed acquire release acq_rel noftz"
#: (old value, the thread's operands) -> new value
_Combine = Callable[..., np.generic]
_FUNCTIONS: dict[str, _Combine] = {
    "add": lambda old, b: old + b,
    "min": min,
    "max": max,
    "and": lambda old, b: old & b,
    "or": lambda old, b: old | b,
    "xor": lambda old, b: old ^ b,
    "exch": lambda old, b: b,
    "inc": lambda old, b: type(old)(0) if old >= b else old + type(old)(1),
    "dec": lambda old, b: b if old == 0 or old > b else old - type(old)(1),
}


def atomic(instruction: Instruction) -> Operation:
    """Read, combine and write back, thread after thread; red returns nothing."""
    kind = operand_type(instruction)
    names = {*_FUNCTIONS, "cas"} & set(instruction.modifiers)
    check_modifiers(instruction, f"{_KNOWN} {' '.join(names)}")
    if len(names) != 1:
        raise unsupported(instruction, "unknown atomic function")
    name = next(iter(names))
    operands = instruction.operands
    is_atom = instruction.opcode == "atom"
    write = writer(operands[0], kind) if is_atom else None
    read_address = address_reader(operands[1 if is_atom else 0])
    reads = [reader(operand, kind) for operand in operands[2 if is_atom else 1 :]]
    combine = _combination(name, kind)
    space = state_space(instruction)

    def operation(machine: Machine, mask: Mask) -> None:
        threads = machine.active(mask)
        addresses = read_address(machine)[threads]
        values = [np.broadcast_to(read(machine), machine.num_threads)[threads] for read in reads]
        old = _memory(machine, space, addresses).update(
            _within(space, addresses),
            kind,
            threads,
            lambda value, place: combine(value, *(value_of[place] for value_of in values)),
        )
        if write:
            whole = np.zeros(machine.num_threads, kind.dtype)
            whole[threads] = old
            write(machine, whole, mask)

    return operation


def _is_shared(space: str, addresses: np.ndarray) -> bool:
    return space == "shared" or (
        space == "generic" and len(addresses) > 0 and bool(addresses[0] >= np.uint64(SHARED_WINDOW))
    )


def _memory(machine: Machine, space: str, addresses: np.ndarray) -> SharedMemory | GlobalAccess:
    return machine.shared if _is_shared(space, addresses) else machine.global_memory


def _within(space: str, addresses: np.ndarray) -> np.ndarray:
    is_window = space == "generic" and _is_shared(space, addresses)
    return addresses - np.uint64(SHARED_WINDOW) if is_window else addresses


def _combination(name: str, kind: ScalarType) -> _Combine:
    if name == "cas":
        return lambda old, compare, value: value if old == compare else old
    function = _FUNCTIONS[name]
    form = FORMATS.get(kind.name)
    if form is None or name == "exch":
        return function

    def on_floats(old: np.generic, value: np.generic) -> np.generic:
        result = function(form.decode(np.asarray([old])), form.decode(np.asarray([value])))
        return form.encode(result)[0]

    return on_floats
