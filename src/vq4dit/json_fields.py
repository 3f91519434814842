"""Typed reading of JSON that is hostile until checked: every error names key, found and needed."""

from __future__ import annotations

import json
import re
from typing import Any

from .errors import ArtifactError


def parse_json(data: bytes, where: str) -> Any:
    """Parse JSON; NaN and Infinity are refused.

    Raises:
        ArtifactError: not JSON, with the place.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where} is not JSON: {error}") from None


class Fields:
    """Typed access to one JSON object; every error names the key, what was found and needed."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise ArtifactError(f"{where} is {_short(values)}, needed an object")
        self.values: dict[str, Any] = values
        self._where = where
        self._read: set[str] = set()

    def refuse_unknown(self) -> None:
        """Raise for a key that nobody asked for."""
        unknown = sorted(set(self.values) - self._read)
        if unknown:
            raise ArtifactError(f"{self._where} has the unknown key {unknown[0]!r}")

    def fields(self, key: str) -> Fields:
        """A nested object."""
        return Fields(self._get(key), f"{self._where}.{key}")

    def mapping(self, key: str) -> dict[str, Any]:
        """A nested object whose keys the caller checks."""
        return self.fields(key).values

    def text(self, key: str) -> str:
        """A string."""
        value = self._get(key)
        return value if isinstance(value, str) else self._refuse(key, "a string")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self._refuse(key, "a list of strings")
        return tuple(value)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """One of a few strings."""
        value = self._get(key)
        return value if value in choices else self._refuse(key, f"one of {', '.join(choices)}")

    def pattern(self, key: str, pattern: re.Pattern[str]) -> str:
        """A string that matches as a whole."""
        value = self._get(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self._refuse(key, f"a string of the form {pattern.pattern}")
        return str(value)

    def boolean(self, key: str) -> bool:
        """True or false."""
        value = self._get(key)
        return value if isinstance(value, bool) else self._refuse(key, "true or false")

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer in low..high."""
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self._refuse(key, f"an integer in {low}..{high}")
        return int(value)

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """An integer in low..high, or null."""
        return None if self._get(key) is None else self.integer(key, low, high)

    def number(self, key: str, low: float, high: float) -> float:
        """A finite number in low..high."""
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._refuse(key, "a number")
        if not low <= value <= high:  # nor is NaN
            self._refuse(key, f"a number in {low}..{high}")
        return float(value)

    def shape(self, key: str) -> tuple[int, int, int]:
        """Three positive sizes (C, H, W)."""
        value = self._get(key)
        sizes = value if isinstance(value, list) else []
        if len(sizes) != 3 or not all(type(n) is int and 0 < n <= 1 << 16 for n in sizes):
            self._refuse(key, "three positive integers (C, H, W)")
        return (sizes[0], sizes[1], sizes[2])

    def _get(self, key: str) -> Any:
        if key not in self.values:
            raise ArtifactError(f"{self._where} lacks the key {key!r}")
        self._read.add(key)
        return self.values[key]

    def _refuse(self, key: str, needed: str) -> Any:
        found = _short(self.values[key])
        raise ArtifactError(f"{self._where}.{key} is {found}, needed {needed}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")
