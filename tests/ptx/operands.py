"""Operand text -> operand."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

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

_FLOAT32 = re.compile(r"0[fF]([0-9a-fA-F]{8})")
_FLOAT64 = re.compile(r"0[dD]([0-9a-fA-F]{16})")
_INTEGER = re.compile(r"([-~]?)(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?")
_DECIMAL = re.compile(r"-?\d+\.\d*(?:[eE][-+]?\d+)?")
_ADDRESS = re.compile(r"([%$\w.]+)\s*(?:\+\s*(-?\w+))?")
_NAME = re.compile(r"[%$\w.]+")
_SPECIAL = re.compile(
    r"%(?:tid|ntid|ctaid|nctaid)\.[xyz]|%laneid|%warpid|%nwarpid|%lanemask_(?:eq|le|lt|ge|gt)"
    r"|%dynamic_smem_size"
)

#: name -> register, or None where the name is no register
FindRegister = Callable[[str], Register | None]


def split_operands(text: str) -> list[str]:
    """Split at commas outside of brackets and braces."""
    parts, depth, start = [], 0, 0
    for place, char in enumerate(text):
        if char in "{[(":
            depth += 1
        elif char in "}])":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


def parse_integer(text: str) -> int:
    """A PTX integer constant: decimal, hexadecimal, octal or binary, with U or not."""
    match = _INTEGER.fullmatch(text)
    if match is None:
        raise ValueError(f"not an integer: {text!r}")
    sign, digits = match.groups()
    is_octal = len(digits) > 1 and digits.isdigit() and digits[0] == "0"
    value = int(digits, 8) if is_octal else int(digits, 0)
    return {"": value, "-": -value, "~": ~value}[sign]


def parse_immediate(text: str) -> Immediate | None:
    """A constant, or None where the text is none."""
    if match := _FLOAT32.fullmatch(text):
        return Immediate("f32", int(match[1], 16))
    if match := _FLOAT64.fullmatch(text):
        return Immediate("f64", int(match[1], 16))
    if _INTEGER.fullmatch(text):
        return Immediate("integer", parse_integer(text))
    if _DECIMAL.fullmatch(text):
        return Immediate("f64", struct.unpack("<Q", struct.pack("<d", float(text)))[0])
    return None


def parse_operand(text: str, find_register: FindRegister) -> Operand:
    """Parse one operand.

    Raises:
        ValueError: the text is no operand.
    """
    if text == "_":
        return Discard()
    if text[0] == "{":
        return Vector(
            tuple(parse_operand(item, find_register) for item in split_operands(text[1:-1]))
        )
    if text[0] == "[":
        return _parse_address(text[1:-1].strip(), find_register)
    if text[0] == "!":
        register = find_register(text[1:].strip())
        if register is None:
            raise ValueError(f"{text!r} negates no register")
        return Negated(register)
    if "|" in text:
        first, second = (part.strip() for part in text.split("|"))
        return Pair(parse_operand(first, find_register), parse_operand(second, find_register))
    return _parse_name(text, find_register)


def _parse_name(text: str, find_register: FindRegister) -> Register | Special | Immediate | Symbol:
    if (register := find_register(text)) is not None:
        return register
    if _SPECIAL.fullmatch(text):
        return Special(text)
    if (immediate := parse_immediate(text)) is not None:
        return immediate
    if not _NAME.fullmatch(text) or text[0] == "%":
        raise ValueError(f"unknown operand {text!r}")
    return Symbol(text)


def _parse_address(text: str, find_register: FindRegister) -> Address:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(f"unknown address {text!r}")
    base = _parse_name(match[1], find_register)
    if isinstance(base, Special):
        raise ValueError(f"unknown address {text!r}")
    return Address(base, parse_integer(match[2]) if match[2] else 0)
