"""Comparisons and selections: setp, set, selp, slct.

Source: PTX ISA, "Comparison and Selection Instructions".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx.access import Operation, reader, writer
from ptx.float_formats import FORMATS, flush_subnormals
from ptx.instructions.elementwise import Elementwise, check_modifiers, operand_type, unsupported
from ptx.machine import Machine, Mask
from ptx.scalar_types import TYPES, ScalarType
from ptx.syntax import Instruction, Pair

_PLAIN = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED = {"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
_COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
_NAMES = "eq ne lt le gt ge lo ls hi hs equ neu ltu leu gtu geu num nan"
_Compare = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _comparison(instruction: Instruction, kind: ScalarType, known: str) -> _Compare:
    modifiers = check_modifiers(instruction, f"{_NAMES} {known}")
    name = next((m for m in instruction.modifiers if m in _NAMES.split()), None)
    if name is None:
        raise unsupported(instruction, "no comparison that the emulator knows")
    if not kind.is_float:
        return (_PLAIN | _UNSIGNED)[name]
    form = FORMATS[kind.name]
    compare = _float_comparison(name)

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = form.decode(a), form.decode(b)
        if "ftz" in modifiers:
            a, b = (flush_subnormals(value, form.smallest_normal) for value in (a, b))
        return compare(a, b)

    return function


def _float_comparison(name: str) -> _Compare:
    """Ordered comparisons are false, unordered ones true, where either side is NaN."""
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    plain = _PLAIN[name.removesuffix("u")]
    if name.endswith("u"):
        return lambda a, b: plain(a, b) | np.isnan(a) | np.isnan(b)
    return lambda a, b: plain(a, b) & ~(np.isnan(a) | np.isnan(b))


def set_predicate(instruction: Instruction) -> Operation:
    """setp: p = compare(a, b) op c, and q = !compare(a, b) op c.

    For pairs of floats p belongs to the low halves and q to the high ones.
    """
    kind = operand_type(instruction)
    compare = _comparison(instruction, kind, "and or xor ftz")
    combine = next((_COMBINE[m] for m in instruction.modifiers if m in _COMBINE), None)
    destination, *sources = instruction.operands
    is_pair = isinstance(destination, Pair)
    targets = (destination.first, destination.second) if is_pair else (destination,)
    writes = [writer(target, TYPES["pred"]) for target in targets]
    reads = [reader(sources[0], kind), reader(sources[1], kind)]
    read_third = reader(sources[2], TYPES["pred"]) if combine else None

    def operation(machine: Machine, mask: Mask) -> None:
        found = compare(reads[0](machine), reads[1](machine))
        results = [found[:, 0], found[:, 1]] if found.ndim == 2 else [found, ~found]
        for write, result in zip(writes, results, strict=False):
            if combine and read_third:
                result = combine(result, read_third(machine))
            write(machine, result, mask)

    return operation


def set_number(instruction: Instruction) -> Elementwise:
    """set: all ones or 1.0 where the comparison holds, else 0."""
    kinds = [TYPES[modifier] for modifier in instruction.modifiers if modifier in TYPES]
    if len(kinds) != 2:
        raise unsupported(instruction, "set needs two types")
    target, source = kinds
    compare = _comparison(instruction, source, "ftz")

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        found = compare(a, b)
        if target.is_float:
            return FORMATS[target.name].encode(found.astype(np.float32))
        if found.ndim == 2:
            halves = np.where(found, np.uint16(0xFFFF), np.uint16(0))
            return np.ascontiguousarray(halves).view(target.dtype)[:, 0]
        return np.where(found, ~target.dtype.type(0), target.dtype.type(0))

    return Elementwise(function, (source, source), target)


def select(instruction: Instruction) -> Elementwise:
    """selp: a where the predicate holds, else b."""
    kind = operand_type(instruction)
    check_modifiers(instruction, "")
    return Elementwise(lambda a, b, p: np.where(p, a, b), (kind, kind, TYPES["pred"]), kind)


def select_by_sign(instruction: Instruction) -> Elementwise:
    """slct: a where c >= 0, else b; .ftz makes a subnormal c zero."""
    kinds = [TYPES[modifier] for modifier in instruction.modifiers if modifier in TYPES]
    if len(kinds) != 2:
        raise unsupported(instruction, "slct needs two types")
    modifiers = check_modifiers(instruction, "ftz")
    kind, sign = kinds

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        if "ftz" in modifiers:
            c = flush_subnormals(c, FORMATS[sign.name].smallest_normal)
        return np.where(c >= 0, a, b)

    return Elementwise(function, (kind, kind, sign), kind)


def number_property(instruction: Instruction) -> Elementwise:
    """testp: what kind of number a float is."""
    kind = operand_type(instruction)
    modifiers = check_modifiers(instruction, "finite infinite number notanumber normal subnormal")
    smallest = FORMATS[kind.name].smallest_normal
    tests: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & (np.abs(a) >= smallest),
        "subnormal": lambda a: (np.abs(a) < smallest) & (a != 0),
    }
    return Elementwise(tests[next(iter(modifiers))], (kind,), TYPES["pred"])
