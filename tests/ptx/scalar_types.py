"""PTX's fundamental types as NumPy dtypes.

Registers hold raw bits as unsigned integers of the register's width; predicates hold bool. bfloat16
has no NumPy dtype: values of that type are handed round as their bits (uint16).
Source: PTX ISA, "Fundamental Types".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ScalarType:
    """One PTX type: its name, dtype of a value, and dtype of its bits."""

    name: str
    dtype: np.dtype
    bits_dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize

    @property
    def num_bits(self) -> int:
        return 8 * self.dtype.itemsize

    @property
    def is_signed(self) -> bool:
        return self.name[0] == "s"

    @property
    def is_float(self) -> bool:
        return self.name[0] == "f" or self.name.startswith("bf")


_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def _scalar(name: str, dtype: type) -> ScalarType:
    size = np.dtype(dtype).itemsize
    bits = np.bool_ if dtype is np.bool_ else _UNSIGNED[size]
    return ScalarType(name, np.dtype(dtype), np.dtype(bits))


_DTYPES: dict[str, type] = {
    "pred": np.bool_,
    **{f"{letter}{8 * size}": _UNSIGNED[size] for letter in "bu" for size in _UNSIGNED},
    "s8": np.int8,
    "s16": np.int16,
    "s32": np.int32,
    "s64": np.int64,
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
    "bf16": np.uint16,
    "f16x2": np.uint32,
    "bf16x2": np.uint32,
}

#: name as in PTX, without the dot
TYPES: dict[str, ScalarType] = {name: _scalar(name, dtype) for name, dtype in _DTYPES.items()}


def last_type(modifiers: tuple[str, ...]) -> ScalarType | None:
    """The type that an instruction names last, e.g. u32 of mul.wide.u32."""
    for modifier in reversed(modifiers):
        if modifier in TYPES:
            return TYPES[modifier]
    return None


def wider(scalar_type: ScalarType) -> ScalarType:
    """Type of twice the width and the same kind, e.g. s64 for s32."""
    return TYPES[f"{scalar_type.name[0]}{2 * scalar_type.num_bits}"]


def bits_type(num_bytes: int) -> ScalarType:
    """Untyped bits of a width."""
    return TYPES[f"b{8 * num_bytes}"]
