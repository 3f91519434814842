"""The run as Markdown: what ran, what is missing, kernels beside cuBLAS, engines beside dense."""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, log
from typing import Any

from .results import RAN

Row = dict[str, Any]


def render(document: dict[str, Any]) -> str:
    """The whole report."""
    machine = document["machine"]
    gpu = machine.get("gpu") or "no GPU"
    lines = ["## GPU acceptance (`gpu_acceptance.py`)", "", f"GPU: {gpu}.", ""]
    if not any(step["state"] == RAN for step in document["steps"].values()):
        lines += ["**Nothing was measured: no step that needs a GPU has run.**", ""]
    kernel_rows = [row for row in document["rows"] if row["step"].startswith("kernels/")]
    lines += _kernel_table(kernel_rows) + _engine_lines(document["rows"])
    return "\n".join(lines + _step_table(document["steps"]))


def _kernel_table(rows: list[Row]) -> list[str]:
    """Per case cuBLAS, our fastest kernel, their ratio, and the largest error of all kernels."""
    if not rows:
        return []
    lines = ["### Kernels", "", "Microseconds inside a CUDA graph, weights cold, median of 9.", ""]
    lines += _header("case", "M", "O", "I", "cuBLAS", "fastest of ours", "us", "ratio", "error")
    ratios: dict[int, list[float]] = {}
    for case in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == case]
        cublas = next((r["microseconds"] for r in of_case if r["kernel"] == "cublas"), None)
        ours = [r for r in of_case if r["kernel"] != "cublas"]
        timed = [r for r in ours if r["microseconds"] is not None and r["ok"]]
        best = min(timed, key=lambda r: r["microseconds"], default=None)
        errors = [r.get("relative_error") for r in ours]
        worst = "wrong" if None in errors else f"{max(errors):.1e}"
        first, ratio = of_case[0], None
        if best and cublas:
            ratio = cublas / best["microseconds"]
            ratios.setdefault(first["m"], []).append(ratio)
        name = best["kernel"].removeprefix("vq4dit_") if best else "none"
        lines.append(
            _cells(
                case, first["m"], first["n"], first["k"], _number(cublas), name,
                _number(best and best["microseconds"]), _number(ratio, "x"), worst,
            )
        )  # fmt: skip
    means = [f"M = {m}: {_geometric_mean(values):.2f}x" for m, values in sorted(ratios.items())]
    failed = [r for r in rows if not r["ok"]]
    lines += ["", f"Geometric mean over the cases, cuBLAS / ours: {', '.join(means) or 'none'}."]
    lines += [f"Kernels that gave a wrong answer or did not run: {len(failed)}.", ""]
    lines += [f"- `{r['kernel']}` in {r['case']}: {_fault(r)}" for r in failed]
    return [*lines, ""]


def _fault(row: Row) -> str:
    return row.get("error") or f"relative error {row.get('relative_error') or 'not finite'}"


def _engine_lines(rows: list[Row]) -> list[str]:
    """Plan sizes, parity, speed."""
    lines: list[str] = []
    sizes = [row for row in rows if row["step"] == "plan-sizes"]
    if sizes:
        lines += ["### Plans", "", *_header("engine", "bytes", "decode folded to dense")]
        lines += [_cells(r["kind"], f"{r['plan_bytes']:,}", r["is_folded"]) for r in sizes] + [""]
    parity = [row for row in rows if row["step"].startswith("parity/")]
    if parity:
        names = ("engine", "check", "latent_out error", "x_start error", "limit", "passed")
        lines += ["### Parity of one step", "", *_header(*names)]
        lines += [_parity_row(row) for row in parity] + [""]
    speed = [row for row in rows if row["step"].startswith("speed/")]
    if speed:
        names = ("engine", "batch", "step ms", "p90 ms", "dense / this", "GPU memory MiB", "load s")
        lines += ["### Latency and memory", "", *_header(*names)]
        lines += [_speed_row(row, speed) for row in speed] + [""]
    return lines


def _parity_row(row: Row) -> str:
    errors = (f"{row[name]:.1e}" for name in ("latent_out_error", "x_start_error", "limit"))
    return _cells(row["kind"], row["name"], *errors, row["ok"])


def _speed_row(row: Row, rows: list[Row]) -> str:
    """One engine and batch size, beside the dense engine at the same batch size."""
    dense = [r for r in rows if r["kind"] == "dense" and r["batch"] == row["batch"]]
    median = row["latency"]["median_ms"]
    ratio = dense[0]["latency"]["median_ms"] / median if dense else None
    memory = None if row["device_bytes"] is None else row["device_bytes"] / (1 << 20)
    return _cells(
        row["kind"], row["batch"], _number(median), _number(row["latency"]["p90_ms"]),
        _number(ratio, "x"), _number(memory), _number(row["load_seconds"]),
    )  # fmt: skip


def _step_table(steps: dict[str, dict[str, str]]) -> list[str]:
    lines = ["### Steps of the run", "", *_header("step", "state", "why")]
    lines += [_cells(name, s["state"], s.get("reason", "")) for name, s in steps.items()]
    return [*lines, ""]


def _header(*names: str) -> list[str]:
    return [_cells(*names), _cells(*["---"] * len(names))]


def _cells(*values: object) -> str:
    return "| " + " | ".join("" if v is None else str(v) for v in values) + " |"


def _number(value: float | None, unit: str = "") -> str:
    return "not measured" if value is None else f"{value:.3g}{unit}"


def _geometric_mean(values: Iterable[float]) -> float:
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs))
