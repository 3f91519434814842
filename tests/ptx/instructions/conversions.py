"""cvt: between integers, between floats, and across.

Source: PTX ISA, "Data Movement and Conversion Instructions: cvt".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx.float_formats import FORMATS, flush_subnormals
from ptx.instructions.elementwise import Elementwise, check_modifiers, unsupported
from ptx.scalar_types import TYPES, ScalarType
from ptx.syntax import Instruction

_TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_KNOWN = "rn rz rni rzi rmi rpi ftz sat relu satfinite"


def convert(instruction: Instruction) -> Elementwise:
    """The meaning of one cvt.

    Raises:
        UnsupportedPtx: types or modifiers that the emulator does not know.
    """
    modifiers = check_modifiers(instruction, _KNOWN)
    kinds = [TYPES[modifier] for modifier in instruction.modifiers if modifier in TYPES]
    if len(kinds) != 2 or "satfinite" in modifiers:
        raise unsupported(instruction, "unknown conversion")
    target, source = kinds
    if target.name in ("f16x2", "bf16x2"):
        return _pack(instruction, target, source, modifiers)
    if source.is_float and target.is_float:
        function = _float_to_float(target, source, modifiers)
    elif source.is_float:
        function = _float_to_integer(instruction, target, source, modifiers)
    elif target.is_float:
        function = _integer_to_float(instruction, target, modifiers)
    else:
        function = _integer_to_integer(target, source, saturates="sat" in modifiers)
    return Elementwise(function, (source,), target)


def _pack(
    instruction: Instruction, target: ScalarType, source: ScalarType, modifiers: frozenset[str]
) -> Elementwise:
    """Two floats into one register: the first source becomes the upper half."""
    if source.name != "f32":
        raise unsupported(instruction, "unknown conversion")
    half = TYPES[target.name.removesuffix("x2")]
    function = _float_to_float(half, source, modifiers)

    def both(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
        high = np.asarray(function(upper)).view(np.uint16).astype(np.uint32)
        return high << np.uint32(16) | np.asarray(function(lower)).view(np.uint16)

    return Elementwise(both, (source, source), target)


def _float_to_float(
    target: ScalarType, source: ScalarType, modifiers: frozenset[str]
) -> Callable[[np.ndarray], np.ndarray]:
    decode, encode = FORMATS[source.name].decode, FORMATS[target.name].encode
    to_integer = [_TO_INTEGER[name] for name in _TO_INTEGER if name in modifiers]

    def function(register: np.ndarray) -> np.ndarray:
        values = decode(register)
        if "ftz" in modifiers and source.name == "f32":
            values = flush_subnormals(values, FORMATS["f32"].smallest_normal)
        for rounding in to_integer:
            values = rounding(values)
        if "relu" in modifiers:
            values = np.maximum(values, values.dtype.type(0))
        if "sat" in modifiers:
            values = np.where(np.isnan(values), values.dtype.type(0), np.clip(values, 0, 1))
        if "rz" in modifiers:
            return _towards_zero(values, target)
        return encode(values)

    return function


def _towards_zero(values: np.ndarray, target: ScalarType) -> np.ndarray:
    """The nearest value of a format that is not larger in magnitude."""
    form = FORMATS[target.name]
    near = form.encode(values)
    bits = np.asarray(near).view(target.bits_dtype)
    too_large = np.abs(form.decode(near).astype(np.float64)) > np.abs(values.astype(np.float64))
    return np.where(too_large, bits - bits.dtype.type(1), bits).view(target.dtype)


def _float_to_integer(
    instruction: Instruction, target: ScalarType, source: ScalarType, modifiers: frozenset[str]
) -> Callable[[np.ndarray], np.ndarray]:
    """Out of range goes to the nearest end of the range, NaN to 0."""
    names = modifiers & _TO_INTEGER.keys()
    if len(names) != 1:
        raise unsupported(instruction, "a float becomes an integer by .rni, .rzi, .rmi or .rpi")
    rounding = _TO_INTEGER[next(iter(names))]
    limits = np.iinfo(target.dtype)
    decode = FORMATS[source.name].decode

    def function(register: np.ndarray) -> np.ndarray:
        values = rounding(decode(register).astype(np.float64))
        above, below = values >= float(limits.max), values <= float(limits.min)
        inside = np.where(above | below | np.isnan(values), 0.0, values)
        result = inside.astype(target.dtype)
        result = np.where(above, target.dtype.type(limits.max), result)
        return np.where(below, target.dtype.type(limits.min), result)

    return function


def _integer_to_float(
    instruction: Instruction, target: ScalarType, modifiers: frozenset[str]
) -> Callable[[np.ndarray], np.ndarray]:
    if "rn" not in modifiers:
        raise unsupported(instruction, "an integer becomes a float by .rn only")
    if target.name in ("f32", "f64"):
        return lambda values: values.astype(target.dtype)
    encode = FORMATS[target.name].encode
    return lambda values: encode(values.astype(np.float64))


def _integer_to_integer(
    target: ScalarType, source: ScalarType, *, saturates: bool
) -> Callable[[np.ndarray], np.ndarray]:
    if not saturates:
        return lambda values: values.astype(target.dtype)
    low = max(int(np.iinfo(target.dtype).min), int(np.iinfo(source.dtype).min))
    high = min(int(np.iinfo(target.dtype).max), int(np.iinfo(source.dtype).max))
    return lambda values: np.clip(values, source.dtype.type(low), source.dtype.type(high)).astype(
        target.dtype
    )
