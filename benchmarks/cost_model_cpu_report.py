"""Renders the CPU cost model's errors as Markdown."""

from __future__ import annotations

from statistics import median
from typing import Any

_METHOD = """\
**Question.** How far is `vq4dit.prediction.cpu` from measurement, on sizes it was not fitted to?

**Method.** One thread. Costs per counted quantity (multiply-adds, look-ups, table entries, bytes,
calls), none below zero, by least squares of relative errors with large ones cut, fitted to products
of six shapes with 1 to 512 rows and to four small random DiTs; held against the demonstration
model's engines, a block as wide as DiT-XL/2's and products of DiT-XL/2's five shapes. Fit and test
share no shape. Times of operations by ONNX Runtime's profiler less its own cost, mean of the faster
half of the runs; of products the least of five. Error: predicted over measured, less one; goal:
within 20 % for each class.
"""


def render(document: dict[str, Any]) -> str:
    """The section's text."""
    about = document["machine"]
    lines = ["## The cost model on a CPU, fitted and tested (`cost_model_cpu.py`)", "", _METHOD]
    lines += [
        "```",
        "python benchmarks/cost_model_cpu.py --engine DEMO/engines/fp DEMO/engines/kmeans",
        "```",
        "",
        f"**Machine.** {about['processor']}, {about['processors']} processors, multiply-add peak "
        f"{about['fma_peak_gflops_per_core']} GFLOP/s per core; onnxruntime "
        f"{about['versions']['onnxruntime']}.",
        "",
        *_class_table(document["classes"]),
        "",
        *_gemm_table(document["gemm"]),
        "",
        _verdict(document),
    ]
    return "\n".join(lines)


def _class_table(rows: list[dict[str, Any]]) -> list[str]:
    classes = list(dict.fromkeys(row["class"] for row in rows))
    cases = list(dict.fromkeys((r["test"], r["implementation"], r["batch"]) for r in rows))
    by_key = {(r["test"], r["implementation"], r["batch"], r["class"]): r for r in rows}
    lines = [
        "Held-out engines: error by part of the step (measured us)",
        "",
        "| engine | weights | batch | " + " | ".join(classes) + " |",
        "|---|---|---|" + "---|" * len(classes),
    ]
    for case in cases:
        cells = [by_key[(*case, name)] for name in classes]
        text = [f"{100 * c['error']:+.0f} % ({c['measured_us']:,.0f})" for c in cells]
        lines.append(f"| {case[0]} | {case[1]} | {case[2]} | " + " | ".join(text) + " |")
    return lines


def _gemm_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "Held-out products (DiT-XL/2's five shapes): median absolute error, largest",
        "",
        "| weights | M | median | largest | at |",
        "|---|---|---|---|---|",
    ]
    for implementation in dict.fromkeys(row["implementation"] for row in rows):
        for m in dict.fromkeys(row["m"] for row in rows):
            chosen = [r for r in rows if (r["implementation"], r["m"]) == (implementation, m)]
            worst = max(chosen, key=lambda row: abs(row["error"]))
            middle = median(abs(row["error"]) for row in chosen)
            lines.append(
                f"| {implementation} | {m} | {100 * middle:.0f} % | {100 * worst['error']:+.0f} % "
                f"| {worst['k']} -> {worst['n']} |"
            )
    return lines


def _verdict(document: dict[str, Any]) -> str:
    rows = document["classes"]
    inside = [row for row in rows if abs(row["error"]) <= 0.2]
    missed = [row for row in rows if abs(row["error"]) > 0.2]
    by_class: dict[str, list[float]] = {}
    for row in rows:
        by_class.setdefault(row["class"], []).append(abs(row["error"]))
    middles = ", ".join(f"{name} {100 * median(e):.0f} %" for name, e in by_class.items())
    text = (
        f"{len(inside)} of {len(rows)} classes of held-out engines are within 20 %; median "
        f"absolute error by class: {middles}."
    )
    if missed:
        share = max(_share(row, rows) for row in missed)
        text += (
            f" None of those outside is more than {100 * share:.0f} % of its step's time."
            if share < 0.5
            else " Those outside are told above."
        )
    return text


def _share(row: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    (whole,) = [
        r
        for r in rows
        if r["class"] == "whole step"
        and all(r[key] == row[key] for key in ("test", "implementation", "batch"))
    ]
    return float(row["measured_us"] / whole["measured_us"])
