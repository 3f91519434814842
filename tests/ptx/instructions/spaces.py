"""Reads and writes in each state space, generic addresses among them.

Source: PTX ISA, "State Spaces" and "Generic Addressing".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ptx.failures import FailureKind
from ptx.faults import Fault
from ptx.machine import LOCAL_WINDOW, SHARED_WINDOW, Machine
from ptx.scalar_types import ScalarType
from ptx.syntax import Instruction
from ptx.wavefronts import count_wavefronts

SPACES = ("param", "shared", "shared::cta", "global", "const", "local")

#: (machine, addresses, type, count, threads, index of the instruction) -> `count` arrays
Fetch = Callable[
    [Machine, np.ndarray, ScalarType, int, np.ndarray, int], Sequence[np.ndarray] | np.ndarray
]
#: (machine, addresses, values, threads, index of the instruction)
Put = Callable[[Machine, np.ndarray, Sequence[np.ndarray], np.ndarray, int], None]


def state_space(instruction: Instruction) -> str:
    """Where the instruction's address points; generic where it does not say."""
    for modifier in instruction.modifiers:
        if modifier in SPACES:
            return modifier.removesuffix("::cta")
    return "generic"


def note_wavefronts(
    machine: Machine, addresses: np.ndarray, num_bytes: int, threads: np.ndarray, index: int
) -> None:
    """Count the wavefronts of one access to shared memory."""
    if len(threads):
        found, least = count_wavefronts(addresses, num_bytes, threads)
        machine.statistics.add_wavefronts(index, found, least)


def _fetch_global(
    machine: Machine,
    addresses: np.ndarray,
    kind: ScalarType,
    count: int,
    threads: np.ndarray,
    index: int,
) -> list[np.ndarray]:
    return machine.global_memory.load(addresses, kind, count, threads)


def _fetch_shared(
    machine: Machine,
    addresses: np.ndarray,
    kind: ScalarType,
    count: int,
    threads: np.ndarray,
    index: int,
) -> np.ndarray:
    note_wavefronts(machine, addresses, kind.num_bytes * count, threads, index)
    return np.ascontiguousarray(machine.shared.load(addresses, kind, count, threads).T)


def _fetch_local(
    machine: Machine,
    addresses: np.ndarray,
    kind: ScalarType,
    count: int,
    threads: np.ndarray,
    index: int,
) -> list[np.ndarray]:
    return machine.local.load(addresses, kind, count, threads)


def _fetch_generic(
    machine: Machine,
    addresses: np.ndarray,
    kind: ScalarType,
    count: int,
    threads: np.ndarray,
    index: int,
) -> list[np.ndarray]:
    values = [np.empty(len(threads), kind.dtype) for _ in range(count)]
    for space, chosen, within in split_generic(addresses):
        parts = FETCH[space](machine, within, kind, count, threads[chosen], index)
        for value, part in zip(values, parts, strict=True):
            value[chosen] = part
    return values


def _put_global(
    machine: Machine,
    addresses: np.ndarray,
    values: Sequence[np.ndarray],
    threads: np.ndarray,
    index: int,
) -> None:
    machine.global_memory.store(addresses, values, threads)


def _put_shared(
    machine: Machine,
    addresses: np.ndarray,
    values: Sequence[np.ndarray],
    threads: np.ndarray,
    index: int,
) -> None:
    num_bytes = values[0].dtype.itemsize * len(values)
    note_wavefronts(machine, addresses, num_bytes, threads, index)
    machine.shared.store(addresses, values, threads)


def _put_local(
    machine: Machine,
    addresses: np.ndarray,
    values: Sequence[np.ndarray],
    threads: np.ndarray,
    index: int,
) -> None:
    machine.local.store(addresses, values, threads)


def _put_generic(
    machine: Machine,
    addresses: np.ndarray,
    values: Sequence[np.ndarray],
    threads: np.ndarray,
    index: int,
) -> None:
    for space, chosen, within in split_generic(addresses):
        parts = [value[chosen] for value in values]
        PUT[space](machine, within, parts, threads[chosen], index)


def _put_constant(
    machine: Machine,
    addresses: np.ndarray,
    values: Sequence[np.ndarray],
    threads: np.ndarray,
    index: int,
) -> None:
    raise Fault(FailureKind.READ_ONLY, "constant memory", thread=int(threads[0]))


def split_generic(addresses: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
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


FETCH: dict[str, Fetch] = {
    "global": _fetch_global,
    "const": _fetch_global,
    "shared": _fetch_shared,
    "local": _fetch_local,
    "generic": _fetch_generic,
}
PUT: dict[str, Put] = {
    "global": _put_global,
    "const": _put_constant,
    "shared": _put_shared,
    "local": _put_local,
    "generic": _put_generic,
}
