"""The report's sections on memory and energy."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from . import charts
from .html import cell, details, note, section, table
from .numbers import data_size, three_digits


def memory_section(engines: Sequence[dict[str, Any]]) -> str:
    """Memory by phase, and the weights layer by layer; empty where it was not measured."""
    having = [(i, e) for i, e in enumerate(engines) if (e.get("memory") or {}).get("phases")]
    if not having:
        return ""
    rows = []
    for i, engine in having:
        for k, phase in enumerate(engine["memory"]["phases"]):
            at = f"engines.{i}.memory.phases.{k}"
            cells = [cell(escape(engine["name"])), cell(phase["phase"], css="words")]
            for key in ("rss_bytes", "peak_bytes", "anonymous_bytes", "file_bytes", "device_bytes"):
                cells.append(cell(data_size(phase[key]), f"{at}.{key}"))
            rows.append(
                [
                    *cells,
                    cell(three_digits(1e3 * phase["seconds"])),
                ]
            )
    chart = charts.memory_bars([e for _, e in having], label="Resident memory by phase")
    words = (
        "Each engine in a process of its own. Bars: resident memory after the phase; mark and "
        "number: its peak within the phase. Mapped files can be dropped and read again."
    )
    body = charts.legend({"written": "m0", "mapped files": "m1"}) + chart
    head = ["engine", "phase", "resident", "peak", "written", "mapped", "device", "ms"]
    weights = "".join(
        details(f"weights of {escape(e['name'])}, layer by layer", _weights_table(i, e["weights"]))
        for i, e in enumerate(engines)
    )
    return section(
        "Memory", note(words) + body + details("table", table(head, rows, words=2)) + weights
    )


def _weights_table(i: int, rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        [
            cell(escape(row["layer"])),
            cell(three_digits(row["bits_per_weight"]), f"engines.{i}.weights.{k}.bits_per_weight"),
            cell(data_size(row["bytes"]), f"engines.{i}.weights.{k}.bytes"),
        ]
        for k, row in enumerate(rows)
    ]
    return table(["layer", "bits per weight", "size"], cells)


def energy_section(engines: Sequence[dict[str, Any]]) -> str:
    """Joules and watts by source, or why there are none; empty where it was not asked for."""
    having = [(i, e) for i, e in enumerate(engines) if e.get("energy")]
    if not having:
        return ""
    rows = []
    for i, engine in having:
        for k, row in enumerate(engine["energy"]["sources"]):
            at = f"engines.{i}.energy.sources.{k}"
            cells = [cell(escape(engine["name"])), cell(escape(row["source"]), css="words")]
            for key in ("idle_watts", "watts", "joules_per_step", "joules_per_image"):
                cells.append(cell(three_digits(row[key]), f"{at}.{key}"))
            rows.append(cells)
    if not rows:
        why = escape("; ".join(having[0][1]["energy"]["why_not"]))
        return section("Energy", note(f"This machine does not tell its energy: {why}."))
    head = ["engine", "source", "idle W", "W", "J per step", "J per picture"]
    return section("Energy", table(head, rows, words=2))
