"""The report's sections on where a step's time goes: parts of the DiT, layers, ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from . import charts
from .html import cell, details, note, section, table
from .numbers import NONE, data_size, percent, three_digits

_TITLE = "Where a step's time goes"
_TOP_LAYERS = 16
_TOP_OPS = 12


def parts_section(engines: Sequence[dict[str, Any]]) -> str:
    """Time by part of the DiT, and the account of each engine; empty without layers."""
    having = [(i, e) for i, e in enumerate(engines) if e.get("layers")]
    silent = "".join(note(escape(e["layers_why_not"])) for e in engines if "layers_why_not" in e)
    if not having:
        return section(_TITLE, silent) if silent else ""
    bars = [
        (e["name"], [(r["part"], charts.PART_CLASSES[r["part"]], r["ms"]) for r in
                     e["layers"]["parts"]]) for _, e in having
    ]  # fmt: skip
    used = dict.fromkeys(part for _, parts in bars for part, _, _ in parts)
    body = charts.legend({part: charts.PART_CLASSES[part] for part in used})
    body += charts.stacked_bars(bars, unit="ms", label="Time of a step by part of the DiT")
    for i, engine in having:
        body += f"<h3>{escape(engine['name'])}</h3>" + _parts_table(i, engine["layers"])
    words = (
        "One step, by ONNX Runtime's profiler in runs of its own, of which the fastest quarter "
        "counts; what the profiler itself costs is taken off each node. Shares are of the step "
        "without profiler. GFLOP/s of quantized layers count the dense product that they stand "
        "for. The roof is the machine's peak of arithmetic or of memory traffic, whichever limits; "
        "data in the caches may exceed it."
    )
    return section(_TITLE, note(words) + silent + body)


def _parts_table(i: int, layers: dict[str, Any]) -> str:
    at, rows = f"engines.{i}.layers", []
    for k, row in enumerate(layers["parts"]):
        rows.append([cell(row["part"]), *_rate_cells(row, f"{at}.parts.{k}")])
    account = layers["account"]
    rows.append(
        [
            cell("runtime, outside nodes"),
            cell(three_digits(account["outside_nodes_ms"]), f"{at}.account.outside_nodes_ms"),
            cell(percent(account["outside_nodes_ms"] / account["plain_ms"])),
            *[cell(NONE)] * 5,
        ]
    )
    rows.append(
        [
            cell("whole step"),
            cell(three_digits(account["plain_ms"]), f"{at}.account.plain_ms"),
            cell(percent(1.0)),
            cell(str(account["num_nodes"]), f"{at}.account.num_nodes"),
            *[cell(NONE)] * 4,
        ]
    )
    closure = (
        f"Sum of the parts over the whole: "
        f'<b data-key="{at}.account.closure">{percent(account["closure"])}</b>; as the profiler '
        f'reports them <b data-key="{at}.account.reported_closure">'
        f"{percent(account['reported_closure'])}</b>, of which "
        f'<b data-key="{at}.account.event_cost_us">{three_digits(account["event_cost_us"])}</b> us '
        "a node is its own cost."
    )
    head = ["part", "ms", "share", "nodes", "GFLOP", "GFLOP/s", "GB/s", "of roof"]
    return table(head, rows, has_total=True) + note(closure)


def layers_section(document: dict[str, Any]) -> str:
    """Each engine's layers: a map of the blocks, the roofline, tables; empty without layers."""
    body = ""
    for i, engine in enumerate(document["engines"]):
        if not engine.get("layers"):
            continue
        name, rows = escape(engine["name"]), engine["layers"]["layers"]
        parts = dict.fromkeys(row["part"] for row in rows)
        body += f"<h3>{name}: each layer of each block, microseconds (darker is longer)</h3>"
        body += charts.block_map(rows, label=f"Microseconds of each layer of {engine['name']}")
        body += f"<h3>{name}: roofline</h3>"
        body += charts.legend({part: charts.PART_CLASSES[part] for part in parts})
        body += charts.roofline(
            rows, document["peaks"], label=f"Layers of {engine['name']} under the machine's peaks"
        )
        body += details(
            f"layers of all blocks of {name}", _kind_table(i, engine["layers"]["kinds"])
        )
        body += details(f"slowest layers of {name}", _layer_table(i, rows))
        body += details(f"ops of {name}", _op_table(i, engine["layers"]["ops"]))
        if engine.get("decoder_layers"):
            body += details(
                f"slowest layers of the decoder of {name}",
                _layer_table(i, engine["decoder_layers"]["layers"], of="decoder_layers"),
            )
    return section("Layers", body) if body else ""


def _layer_table(i: int, rows: Sequence[dict[str, Any]], of: str = "layers") -> str:
    order = sorted(range(len(rows)), key=lambda k: -rows[k]["ms"])[:_TOP_LAYERS]
    cells = [
        [
            cell(escape(rows[k]["layer"])),
            *_rate_cells(rows[k], f"engines.{i}.{of}.layers.{k}"),
            cell(data_size(rows[k]["weight_bytes"]), f"engines.{i}.{of}.layers.{k}.weight_bytes"),
        ]
        for k in order
    ]
    head = ["layer", "ms", "share", "nodes", "GFLOP", "GFLOP/s", "GB/s", "of roof", "weights"]
    return table(head, cells)


def _kind_table(i: int, rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        [cell(escape(row["kind"])), *_rate_cells(row, f"engines.{i}.layers.kinds.{k}")]
        for k, row in enumerate(rows)
    ]
    head = ["kind of layer", "ms", "share", "nodes", "GFLOP", "GFLOP/s", "GB/s", "of roof"]
    return table(head, cells)


def _op_table(i: int, rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        [cell(escape(row["op"])), *_rate_cells(row, f"engines.{i}.layers.ops.{k}")]
        for k, row in enumerate(rows[:_TOP_OPS])
    ]
    head = ["op", "ms", "share", "nodes", "GFLOP", "GFLOP/s", "GB/s", "of roof"]
    return table(head, cells)


def _rate_cells(row: dict[str, Any], at: str) -> list[str]:
    forms: tuple[tuple[str, Callable[[Any], str]], ...] = (
        ("ms", three_digits), ("share", percent), ("num_nodes", str), ("gflop", three_digits),
        ("gflops", three_digits), ("gbytes_per_s", three_digits), ("roof_share", percent),
    )  # fmt: skip
    return [cell(form(row[key]), f"{at}.{key}") for key, form in forms]
