"""Numbers as text, alike in the terminal and in the report."""

from __future__ import annotations

NONE = "-"

_KILO = 1024.0


def three_digits(value: float | None) -> str:
    """Three significant digits without exponent; "-" for None."""
    if value is None:
        return NONE
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    for limit, digits in ((100, 0), (10, 1), (1, 2), (0.1, 3)):
        if size >= limit:
            return f"{value:.{digits}f}"
    return "0" if value == 0 else f"{value:.4f}"


def percent(value: float | None) -> str:
    """A share as per cent with one digit."""
    return NONE if value is None else f"{100 * value:.1f} %"


def data_size(value: float | None) -> str:
    """Bytes as KiB, MiB or GiB."""
    if value is None:
        return NONE
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < _KILO:
            return f"{value:.0f} B" if unit == "B" else f"{three_digits(value)} {unit}"
        value /= _KILO
    return f"{three_digits(value)} GiB"


def ratio(value: float | None) -> str:
    """A ratio with two digits and a multiplication sign."""
    return NONE if value is None else f"{value:.2f}x"


def counted(number: int, what: str) -> str:
    """A number and a noun, in the plural where it needs to be."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def with_unit(value: float | None, unit: str) -> str:
    """A figure of the comparison in its unit."""
    if value is None:
        return NONE
    return data_size(value) if unit == "bytes" else f"{three_digits(value)} {unit}"
