"""A profile as text of at most 100 columns."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from .numbers import NONE, counted, data_size, percent, ratio, three_digits, with_unit

WIDTH = 100

_TOP_KINDS = 10
_NAME_WIDTH = 26


def profile_text(document: dict[str, Any]) -> str:
    """All tables of a profile, one after the other."""
    lines = [_machine(document)]
    for engine in document["engines"]:
        lines += ["", *_engine(engine, document["options"])]
    if document["comparison"]:
        lines += ["", *_comparison(document)]
    return "\n".join(line[:WIDTH] for line in lines)


def aligned(rows: Sequence[Sequence[str]], *, indent: str = "  ") -> list[str]:
    """Rows as columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        (indent + row[0].ljust(widths[0]) + "".join(
            "  " + cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
        )).rstrip()
        for row in rows
    ]  # fmt: skip


def _machine(document: dict[str, Any]) -> str:
    machine, peaks = document["machine"], document["peaks"]
    mode = f", power mode {machine['power_mode']}" if machine["power_mode"] else ""
    return (
        f"{machine['board'] or machine['processor']}, "
        f"{counted(machine['processors'], 'processor')}{mode}; "
        f"{counted(peaks['threads'], 'thread')}: {three_digits(peaks['gflops'])} GFLOP/s, "
        f"{three_digits(peaks['gbytes_per_s'])} GB/s"
    )


def _engine(engine: dict[str, Any], options: dict[str, Any]) -> list[str]:
    lines = [
        f"{engine['name']}: target {engine['target']}, "
        f"{three_digits(engine['bits_per_weight'])} bits per weight, "
        f"{data_size(engine['file_bytes'])}"
    ]
    lines += _latency(engine, options)
    if "throughput" in engine:
        lines += ["", *_throughput(engine)]
    if engine.get("layers_why_not"):
        lines += ["", *_wrapped(f"layers: {engine['layers_why_not']}")]
    if engine.get("layers"):
        lines += ["", *_parts(engine["layers"]), "", *_layers(engine["layers"])]
    if engine.get("memory"):
        lines += ["", *_memory(engine["memory"])]
    if "energy" in engine:
        lines += ["", *_wrapped(_energy(engine["energy"]))]
    return lines


def _latency(engine: dict[str, Any], options: dict[str, Any]) -> list[str]:
    rows = [["ms", "median", "p90", "p99", "min", "jitter", "runs"]]
    names = (
        (f"step, batch {options['batch']}", "step"),
        (f"picture of {options['steps']} steps", "image"),
        ("decode", "decode"),
        ("host overhead per step", "host_overhead_per_step"),
    )
    for name, key in names:
        found = engine.get(key)
        if found:
            values = (found[f"{k}_ms"] for k in ("median", "p90", "p99", "min", "jitter"))
            rows.append([name, *map(three_digits, values), str(found["count"])])
    return aligned(rows)


def _throughput(engine: dict[str, Any]) -> list[str]:
    rows = [["batch", *(str(row["batch"]) for row in engine["throughput"])]]
    for name, key in (("ms per step", "median_ms"), ("ms per sample", "ms_per_sample"),
                      ("pictures per second", "images_per_s")):  # fmt: skip
        rows.append([name, *(three_digits(row[key]) for row in engine["throughput"])])
    return aligned(rows)


def _parts(layers: dict[str, Any]) -> list[str]:
    account = layers["account"]
    rows = [["part", "ms", "share", "nodes", "GFLOP/s", "GB/s", "of roof"]]
    for row in layers["parts"]:
        rows.append([row["part"], three_digits(row["ms"]), percent(row["share"]),
                     str(row["num_nodes"]), three_digits(row["gflops"]),
                     three_digits(row["gbytes_per_s"]), percent(row["roof_share"])])  # fmt: skip
    outside = account["outside_nodes_ms"]
    rows.append(
        ["runtime, outside nodes", three_digits(outside), percent(outside / account["plain_ms"])]
        + [NONE] * 4
    )
    rows.append(["whole step", three_digits(account["plain_ms"]), percent(1.0),
                 str(account["num_nodes"]), *[NONE] * 3])  # fmt: skip
    note = "fastest quarter of the runs; sum of parts over the whole:"
    return [*aligned(rows), f"  {note} {percent(account['closure'])}"]


def _layers(layers: dict[str, Any]) -> list[str]:
    rows = [["layers of all blocks", "part", "ms", "share", "GFLOP/s", "GB/s", "of roof"]]
    for row in layers["kinds"][:_TOP_KINDS]:
        rows.append([row["kind"], row["part"], three_digits(row["ms"]), percent(row["share"]),
                     three_digits(row["gflops"]), three_digits(row["gbytes_per_s"]),
                     percent(row["roof_share"])])  # fmt: skip
    return aligned(rows)


def _memory(memory: dict[str, Any]) -> list[str]:
    phases = memory["phases"]
    rows = [["memory", *(row["phase"] for row in phases)]]
    for name, key in (("resident", "rss_bytes"), ("peak", "peak_bytes"),
                      ("written", "anonymous_bytes"), ("mapped files", "file_bytes"),
                      ("device", "device_bytes")):  # fmt: skip
        if any(row[key] is not None for row in phases):
            rows.append([name, *(data_size(row[key]) for row in phases)])
    return aligned(rows)


def _energy(energy: dict[str, Any]) -> str:
    if not energy["sources"]:
        return f"energy: not told by this machine ({'; '.join(energy['why_not'])})"
    return "energy: " + "; ".join(
        f"{row['source']} {three_digits(row['watts'])} W, "
        f"{three_digits(row['joules_per_step'])} J per step, "
        f"{three_digits(row['joules_per_image'])} J per picture"
        for row in energy["sources"]
    )


def _wrapped(words: str) -> list[str]:
    return wrap(words, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _comparison(document: dict[str, Any]) -> list[str]:
    names = [engine["name"] for engine in document["engines"]]
    rows = [["side by side", *(name[-_NAME_WIDTH:] for name in names)]]
    for row in document["comparison"]:
        cells = [
            with_unit(value, row["unit"]) + (f" ({ratio(r)})" if i else "")
            for i, (value, r) in enumerate(zip(row["values"], row["ratios"], strict=True))
        ]
        rows.append([row["figure"], *cells])
    return aligned(rows)
