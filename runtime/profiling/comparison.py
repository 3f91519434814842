"""Engines side by side: one row per figure, each engine's value and its ratio to the first's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: (what, unit, path into an engine's result); smaller is better but for images per second.
_FIGURES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("step, median", "ms", ("step", "median_ms")),
    ("step, p90", "ms", ("step", "p90_ms")),
    ("step, p99", "ms", ("step", "p99_ms")),
    ("picture, median", "ms", ("image", "median_ms")),
    ("pictures per second", "1/s", ("image", "images_per_s")),
    ("decode, median", "ms", ("decode", "median_ms")),
    ("host overhead per step", "ms", ("host_overhead_per_step", "median_ms")),
    ("load", "s", ("load_seconds",)),
    ("files", "bytes", ("file_bytes",)),
    ("bits per weight", "bits", ("bits_per_weight",)),
)


def comparison(engines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows {"figure", "unit", "values", "ratios"}; empty for a single engine.

    Values and ratios are in the engines' order, None where an engine does not have the figure. The
    peak of resident memory, parts of the DiT and joules come behind the fixed figures.
    """
    if len(engines) < 2:
        return []
    rows = [_row(what, unit, [_at(e, path) for e in engines]) for what, unit, path in _FIGURES]
    rows.append(_row("peak memory", "bytes", [_peak(e) for e in engines]))
    rows.append(_row("energy per step", "J", [_joules(e) for e in engines]))
    parts = dict.fromkeys(row["part"] for e in engines for row in _parts(e))
    for part in parts:
        values = [next((r["ms"] for r in _parts(e) if r["part"] == part), None) for e in engines]
        rows.append(_row(f"part: {part}", "ms", values))
    return [row for row in rows if any(value is not None for value in row["values"])]


def _row(figure: str, unit: str, values: list[float | None]) -> dict[str, Any]:
    first = values[0]
    ratios = [v / first if v is not None and first else None for v in values]
    return {"figure": figure, "unit": unit, "values": values, "ratios": ratios}


def _at(engine: dict[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = engine
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None else float(value)


def _peak(engine: dict[str, Any]) -> float | None:
    phases = (engine.get("memory") or {}).get("phases", [])
    return max((phase["peak_bytes"] for phase in phases), default=None)


def _joules(engine: dict[str, Any]) -> float | None:
    sources = (engine.get("energy") or {}).get("sources", [])
    return sources[0]["joules_per_step"] if sources else None


def _parts(engine: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (engine.get("layers") or {}).get("parts", [])
    return rows
