"""Reads and writes in each state space, generic addresses among them.

Source: PTX ISA, "State Spaces" and "Generic Addressing".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ptx.failures import FailureKind
from ptx.faults import Fault
from ptx.machine import LOCAL_WINDOW, SHARED_WINDOW, Machine
from ptx.scalar_types import ScalarType
from ptx.syntax import Instruction
from ptx.wavefronts import count_wavefronts

SPACES = ("param", "shared", "shared::cta", "global", "const", "local")


@dataclass(frozen=True, kw_only=True)
class Access:
    """One access to memory by one instruction.

    Attributes:
        addresses: (n,) uint64 in the state space, of the active threads only.
        threads: (n,) their places in the group.
        index: of the instruction.
    """

    machine: Machine
    addresses: np.ndarray
    threads: np.ndarray
    index: int


#: (access, type, count) -> `count` arrays
Fetch = Callable[[Access, ScalarType, int], Sequence[np.ndarray] | np.ndarray]
#: (access, values)
Put = Callable[[Access, Sequence[np.ndarray]], None]


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


def _note_access(access: Access, num_bytes: int) -> None:
    note_wavefronts(access.machine, access.addresses, num_bytes, access.threads, access.index)


def _fetch_global(access: Access, kind: ScalarType, count: int) -> list[np.ndarray]:
    return access.machine.global_memory.load(access.addresses, kind, count, access.threads)


def _fetch_shared(access: Access, kind: ScalarType, count: int) -> np.ndarray:
    _note_access(access, kind.num_bytes * count)
    values = access.machine.shared.load(access.addresses, kind, count, access.threads)
    return np.ascontiguousarray(values.T)


def _fetch_local(access: Access, kind: ScalarType, count: int) -> list[np.ndarray]:
    return access.machine.local.load(access.addresses, kind, count, access.threads)


def _fetch_generic(access: Access, kind: ScalarType, count: int) -> list[np.ndarray]:
    values = [np.empty(len(access.threads), kind.dtype) for _ in range(count)]
    for space, chosen, part in _split_generic(access):
        for value, fetched in zip(values, FETCH[space](part, kind, count), strict=True):
            value[chosen] = fetched
    return values


def _put_global(access: Access, values: Sequence[np.ndarray]) -> None:
    access.machine.global_memory.store(access.addresses, values, access.threads)


def _put_shared(access: Access, values: Sequence[np.ndarray]) -> None:
    _note_access(access, values[0].dtype.itemsize * len(values))
    access.machine.shared.store(access.addresses, values, access.threads)


def _put_local(access: Access, values: Sequence[np.ndarray]) -> None:
    access.machine.local.store(access.addresses, values, access.threads)


def _put_generic(access: Access, values: Sequence[np.ndarray]) -> None:
    for space, chosen, part in _split_generic(access):
        PUT[space](part, [value[chosen] for value in values])


def _put_constant(access: Access, values: Sequence[np.ndarray]) -> None:
    raise Fault(FailureKind.READ_ONLY, "constant memory", thread=int(access.threads[0]))


def _split_generic(access: Access) -> Iterator[tuple[str, np.ndarray, Access]]:
    """Yield (space, which threads, their access in that space) of generic addresses."""
    is_local = access.addresses >= np.uint64(LOCAL_WINDOW)
    is_shared = (access.addresses >= np.uint64(SHARED_WINDOW)) & ~is_local
    for space, is_there, window in (
        ("global", ~is_local & ~is_shared, 0),
        ("shared", is_shared, SHARED_WINDOW),
        ("local", is_local, LOCAL_WINDOW),
    ):
        if is_there.any():
            chosen = np.flatnonzero(is_there)
            yield (
                space,
                chosen,
                replace(
                    access,
                    addresses=access.addresses[chosen] - np.uint64(window),
                    threads=access.threads[chosen],
                ),
            )


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
