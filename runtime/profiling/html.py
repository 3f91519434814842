"""Pieces of HTML that the sections of the report are made of.

A cell or figure says by `data-key` where in the profile's JSON its value stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .numbers import three_digits


def section(title: str, body: str, *, css: str = "") -> str:
    """One card of the page; title as HTML."""
    opening = f'<section class="{css}">' if css else "<section>"
    return f"{opening}\n<h2>{title}</h2>\n{body}\n</section>\n"


def note(words: str) -> str:
    """A paragraph in small type; words as HTML."""
    return f'<p class="note">{words}</p>\n'


def details(title: str, body: str) -> str:
    """Content that is shown on a click."""
    return f"<details><summary>{title}</summary>\n{body}</details>\n"


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1, has_total: bool = False
) -> str:
    """A table; the first `words` columns hold words, the last row may be the sum."""
    titles = "".join(
        f'<th class="words">{name}</th>' if i < words else f"<th>{name}</th>"
        for i, name in enumerate(head)
    )
    body = []
    for i, row in enumerate(rows):
        css = ' class="total"' if has_total and i == len(rows) - 1 else ""
        body.append(f"<tr{css}>{''.join(row)}</tr>")
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(body)}</tbody></table>\n"


def cell(words: str, key: str = "", *, css: str = "") -> str:
    """A table cell; key: where in the JSON its figure stands."""
    attributes = (f' data-key="{key}"' if key else "") + (f' class="{css}"' if css else "")
    return f"<td{attributes}>{words}</td>"


def figure(document: dict[str, Any], key: str, form: Callable[[Any], str]) -> str:
    """A figure of the profile within a text."""
    return f'<b data-key="{key}">{form(value_at(document, key))}</b>'


def milliseconds(value: float) -> str:
    """Three digits and the unit."""
    return f"{three_digits(value)} ms"


def value_at(values: Any, path: str) -> Any:
    """The value at a path such as "step.median_ms", None where a part is missing."""
    for key in path.split("."):
        if isinstance(values, list):
            values = values[int(key)]
        else:
            values = values.get(key) if isinstance(values, dict) else None
    return values
