"""A little SVG: elements as text, scales with round ticks. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape


def element(tag: str, content: str = "", **attributes: object) -> str:
    """One element; `_` in attribute names becomes `-`, a trailing one is dropped."""
    parts = []
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        parts.append(f' {name}="{escape(text, quote=True)}"')
    return f"<{tag}{''.join(parts)}>{content}</{tag}>"


def text(x: float, y: float, words: str, **attributes: object) -> str:
    """A text with its anchor point at (x, y)."""
    return element("text", escape(words), x=float(x), y=float(y), **attributes)


def tooltip(words: str) -> str:
    """A child that browsers show where the pointer rests."""
    return element("title", escape(words))


def drawing(width: float, height: float, content: Sequence[str], *, label: str) -> str:
    """A whole picture that grows and shrinks with the page; label: what it shows, in words."""
    return element(
        "svg", "".join(content), viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label
    )


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps values low..high to pixels start..end, evenly or by their logarithms."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Pixels of a value."""
        to: Callable[[float], float] = math.log10 if self.is_log else float
        span = to(self.high) - to(self.low)
        share = (to(value) - to(self.low)) / span if span else 0.0
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the scale: powers of ten, or steps of 1, 2, 5."""
        if self.is_log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        step = round_step((self.high - self.low) / max(count, 1))
        first_tick = math.ceil(self.low / step - 1e-9)
        last_tick = math.floor(self.high / step + 1e-9)
        return [step * i for i in range(first_tick, last_tick + 1)]


def round_step(size: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `size`."""
    if size <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(size))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= size * (1 - 1e-9))


def linear_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """From 0 to a round number above the largest value."""
    high = max((v for v in values if v is not None), default=1.0) or 1.0
    step = round_step(high / 5)
    return Scale(low=0.0, high=step * math.ceil(high / step - 1e-9), start=start, end=end)


def log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Whole powers of ten around the values, which are positive."""
    low = 10.0 ** math.floor(math.log10(min(values)))
    high = 10.0 ** math.ceil(math.log10(max(values)) + 1e-9)
    return Scale(low=low, high=high, start=start, end=end, is_log=True)
