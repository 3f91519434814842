"""A profile as one HTML file: tables and pictures, no script, no network, nothing beside it.

Every figure that stands in the page is in the profile's JSON, which the file also holds (element
`profile-data`); cells say by `data-key` from where in it they come.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from vq4dit.atomic_file import atomic_path

from . import charts
from .html import cell, details, figure, milliseconds, note, section, table, value_at
from .numbers import counted, data_size, ratio, three_digits, with_unit
from .report_layers import layers_section, parts_section
from .report_memory import energy_section, memory_section
from .report_prediction import overview_section, prediction_section


def write_report(path: Path, document: dict[str, Any]) -> None:
    """Write the page, whole or not at all.

    Raises:
        OSError: the disk does not take it; nothing is left.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(report_html(document), encoding="utf-8")


def report_html(document: dict[str, Any]) -> str:
    """The page as text; document as `profile_engines` gives it, predictions included."""
    engines = document["engines"]
    sections = [_head(document)]
    if engines:
        sections += [_summary(document), _latency(engines)]
        sections += [_throughput(engines), parts_section(engines), layers_section(document)]
        sections += [memory_section(engines), energy_section(engines)]
    predictions = document.get("predictions", [])
    sections.append(overview_section(predictions))
    sections += [prediction_section(i, prediction) for i, prediction in enumerate(predictions)]
    style = files("vq4dit.runtime.profiling").joinpath("report.css").read_text(encoding="utf-8")
    names = ", ".join(engine["name"] for engine in engines) or "prediction"
    data = json.dumps(document, allow_nan=False).replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>Profile of {escape(names)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(sections)}</main>\n"
        f'<script type="application/json" id="profile-data">{data}</script>\n</body>\n</html>\n'
    )


def _head(document: dict[str, Any]) -> str:
    title = "<h1>Profile</h1>\n"
    if not document["engines"]:
        return title
    machine, peaks = document["machine"], document["peaks"]
    words = [machine["board"] or machine["processor"], counted(machine["processors"], "processor")]
    if machine["memory_bytes"]:
        words.append(data_size(machine["memory_bytes"]))
    words.append(machine["system"])
    words += [f"power mode {machine['power_mode']}"] if machine["power_mode"] else []
    words += [device["name"] for device in machine["devices"]]
    words += [f"{name} {text}" for name, text in machine["versions"].items()]
    load = machine["load_average"]
    return (
        f'{title}<p class="lead">{escape(", ".join(words))}.'
        + (f" Load of the machine before: {load:.2f}." if load is not None else "")
        + "</p>\n"
        + f'<p class="note">Peaks with {counted(peaks["threads"], "thread")}, measured: '
        f"{figure(document, 'peaks.gflops', three_digits)} GFLOP/s (float32 matrix product), "
        f"{figure(document, 'peaks.gbytes_per_s', three_digits)} GB/s (copy, read and "
        f"written).{_clocks(machine['clocks'])}</p>\n"
    )


def _clocks(clocks: Sequence[dict[str, Any]]) -> str:
    known = [c for c in clocks if c["mhz"]]
    if not known:
        return " Clocks are not told by this machine."
    return " Clocks: " + escape(
        ", ".join(
            f"{c['of']} {c['mhz']:.0f} of {c['max_mhz'] or 0:.0f} MHz ({c['governor']})"
            for c in known
        )
    )


def _summary(document: dict[str, Any]) -> str:
    """Tiles of a single engine, a comparison of several."""
    engines = document["engines"]
    if len(engines) > 1:
        rows = []
        for i, row in enumerate(document["comparison"]):
            cells = [cell(escape(row["figure"]))]
            for k, value in enumerate(row["values"]):
                words = with_unit(value, row["unit"])
                more = f" ({ratio(row['ratios'][k])})" if k else ""
                cells.append(cell(words + more, f"comparison.{i}.values.{k}"))
            rows.append(cells)
        names = ["", *(escape(engine["name"]) for engine in engines)]
        words = f"Ratios are to the first engine, {escape(engines[0]['name'])}."
        return section("Side by side", note(words) + table(names, rows))
    engine, tiles = engines[0], []
    for name, key, form in (
        ("step, median", "step.median_ms", milliseconds),
        ("picture, median", "image.median_ms", milliseconds),
        ("pictures per second", "image.images_per_s", three_digits),
        ("host overhead per step", "host_overhead_per_step.median_ms", milliseconds),
        ("bits per weight", "bits_per_weight", three_digits),
        ("files", "file_bytes", data_size),
    ):
        value = value_at(engine, key)
        if value is not None:
            tiles.append(
                f'<div class="tile"><b data-key="engines.0.{key}">{form(value)}</b>'
                f"<span>{name}</span></div>"
            )
    return section(escape(engine["name"]), f'<div class="tiles">{"".join(tiles)}</div>')


def _latency(engines: Sequence[dict[str, Any]]) -> str:
    figures = ("median", "p90", "p99", "min", "jitter")
    rows = []
    for i, engine in enumerate(engines):
        for name, key in (
            (f"step, batch {engine['step']['batch']}", "step"),
            (f"picture of {engine['image']['steps']} steps", "image"),
            ("decode", "decode"),
            ("host overhead per step", "host_overhead_per_step"),
        ):
            if engine.get(key):
                cells = [cell(escape(engine["name"])), cell(name, css="words")]
                for figure in figures:
                    path = f"{key}.{figure}_ms"
                    cells.append(cell(three_digits(value_at(engine, path)), f"engines.{i}.{path}"))
                rows.append([*cells, cell(str(engine[key]["count"]), f"engines.{i}.{key}.count")])
    chart = charts.runs_chart(
        [(e["name"], charts.ENGINE_CLASSES[i % 6], e["step"]["runs_ms"]) for i, e in
         enumerate(engines)],
        label="Time of each run of a step, in order",
    )  # fmt: skip
    words = (
        "Milliseconds. Jitter is the mean difference of one run and the next. Host overhead is the "
        "time between the end of one engine run and the begin of the next."
    )
    head = ["engine", "what", *figures, "runs"]
    return section(
        "Latency", note(words) + table(head, rows, words=2) + _engine_legend(engines) + chart
    )


def _throughput(engines: Sequence[dict[str, Any]]) -> str:
    having = [(i, e) for i, e in enumerate(engines) if e.get("throughput")]
    if not having:
        return ""
    rows = []
    for i, engine in having:
        for k, row in enumerate(engine["throughput"]):
            at = f"engines.{i}.throughput.{k}"
            cells = [cell(escape(engine["name"])), cell(str(row["batch"]), f"{at}.batch")]
            for key in ("median_ms", "ms_per_sample", "images_per_s"):
                cells.append(cell(three_digits(row[key]), f"{at}.{key}"))
            rows.append(cells)
    chart = charts.line_chart(
        [(e["name"], charts.ENGINE_CLASSES[i % 6],
          [(r["batch"], r["images_per_s"]) for r in e["throughput"]]) for i, e in having],
        unit="/s", x_name="samples of a step", label="Pictures per second by batch size",
    )  # fmt: skip
    words = "Pictures per second follow from the step's median and the number of steps."
    head = ["engine", "batch", "ms per step", "ms per sample", "pictures per second"]
    return section(
        "Throughput",
        note(words) + _engine_legend(engines) + chart + details("table", table(head, rows)),
    )


def _engine_legend(engines: Sequence[dict[str, Any]]) -> str:
    return charts.legend(
        {escape(e["name"]): charts.ENGINE_CLASSES[i % 6] for i, e in enumerate(engines)}
    )
