"""The section on whole steps in RESULTS.md."""

from __future__ import annotations

from typing import Any

_BASELINE = "ort-fp32"


def render(document: dict[str, Any]) -> str:
    """Markdown of the results document of dit_xl_step.py."""
    machine, rows = document["machine"], document["rows"]
    versions = ", ".join(f"{name} {text}" for name, text in machine["versions"].items())
    lines = [
        "## A whole DiT-XL/2 step on a CPU (`dit_xl_step.py`)",
        "",
        "256x256, guidance, batch 1 (512 tokens inside), random weights in the real shapes. Each",
        "implementation in a process of its own; the processes take their steps in turn, one at a",
        "time. Times: median and minimum of the rounds after one that warms up; `x`: median of",
        "ONNX Runtime float32 over it; CPU: processor time of all threads. Memory: peak resident",
        "bytes of the process in the sampling loop. Load: to the end of the first step, for ours",
        "with the check of all hashes. Error: of the guided noise, largest difference over largest",
        "value, against the exact arithmetic with the same weights (2-bit: vq4dit-exact; dense:",
        "ONNX Runtime float32), so that for int8 it holds the loss of the weights too. Ours has",
        "ONNX Runtime's MultiHeadAttention, the dense graph that all peers read has attention of",
        "ONNX's own operators.",
        "",
        f"Command: `python benchmarks/dit_xl_step.py --work FOLDER --decode`. Machine: "
        f"{machine['processor']}, {machine['processors']} processors; {versions}.",
        "",
    ]
    for threads in sorted({row["threads"] for row in rows}):
        chosen = [row for row in rows if row["threads"] == threads]
        lines += [f"**{threads} thread{'s' if threads > 1 else ''}**", "", *_table(chosen), ""]
    if "phases" in document:
        lines += _phases(document["phases"])
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    base = next((row["median_ms"] for row in rows if row["impl"] == _BASELINE), None)
    lines = [
        "| implementation | median ms | min ms | x | CPU ms | peak MB | load s | error |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratio = "-" if base is None else f"{base / row['median_ms']:.2f}"
        error = "-" if row["rel_error"] is None else f"{row['rel_error']:.1e}"
        lines.append(
            f"| {row['impl']} | {row['median_ms']:.0f} | {row['min_ms']:.0f} | {ratio} | "
            f"{row['cpu_ms']:.0f} | {row['peak_rss_bytes'] / 1e6:.0f} | "
            f"{row['load_seconds']:.2f} | {error} |"
        )
    return lines


def _phases(phases: dict[str, dict[str, float]]) -> list[str]:
    lines = [
        "**Memory by phase**, `Pipeline(low_memory=True)`, with an AutoencoderKL decoder of the",
        "usual size (49.5 M weights, float32): the step model goes before the decoder comes.",
        "",
        "| phase | seconds | peak MB | resident at its end, MB |",
        "|---|---:|---:|---:|",
    ]
    for name, phase in phases.items():
        lines.append(
            f"| {name} | {phase['seconds']:.2f} | {phase['peak_rss_bytes'] / 1e6:.0f} | "
            f"{phase['rss_bytes'] / 1e6:.0f} |"
        )
    return lines
