"""Renders the predictions as Markdown; the word "predicted" stands at every table."""

from __future__ import annotations

import textwrap
from typing import Any

_METHOD = """\
**Question.** What does the cost model (`plugins/cuda/cost_model.py`) say of GPUs that nobody has
measured yet, and how much of it hangs on its assumptions?

**All figures of this section are predicted ({calibration}).** Ratios are float16 time over ours;
the float16 library is taken to choose its best tile without error and to split K between blocks.
Ours: one launch, no workspace, as TensorRT's ahead-of-time plugins can do; in the table of whole
steps each linear is gathered or decoded as the builder would choose. Whether TensorRT asks
for more than 48 KiB of shared memory for them is not known: rows "48 KiB" tell what follows if it
does not. In brackets: the range when each assumed efficiency alone is moved to the ends of what is
plausible, and the one that moves the ratio most. Assumed, and ends:
{ranges}.

```
python benchmarks/gpu_predictions.py
```
"""


def render(document: dict[str, Any]) -> str:
    """The section's text."""
    assumed = document["efficiencies"]
    ranges = textwrap.fill(
        ", ".join(
            f"{name} {assumed[name]:g} ({low:g}..{high:g})"
            for name, (low, high) in document["ranges"].items()
        ),
        100,
    )
    lines = ["## Predicted: the CUDA kernels on GPUs (`gpu_predictions.py`)", ""]
    lines += [_METHOD.format(calibration=document["calibration"], ranges=ranges)]
    lines += ["**Predicted ratios and goals**", "", *_goal_table(document["goals"]), ""]
    lines += [
        "**Predicted ratio by rows of x**, geometric mean over the four token linears; in brackets "
        "the better one with decode-then-GEMM for so many of the four shapes", "",
        *_rows_table(document["by_rows"]), "",
        "**Predicted, M = 512, shape by shape**, microseconds", "",
        *_shape_table(document["shapes"]), "",
        "**Predicted DiT-XL/2 step**, 256x256, one sample with guidance (512 tokens)", "",
        *_step_table(document["steps"]), "",
        "**The table of GPUs**; figures marked * were found in no document and are assumed", "",
        *_gpu_table(document["gpus"]), "",
        *_sources(document["gpus"]),
    ]  # fmt: skip
    return "\n".join(lines)


def _goal_table(rows: list[dict[str, Any]]) -> list[str]:
    gpus = list(dict.fromkeys(row["gpu"] for row in rows))
    lines = [f"| | {' | '.join(gpus)} |", "|---" * (len(gpus) + 1) + "|"]
    for goal in dict.fromkeys(row["goal"] for row in rows):
        cells = [_goal_cell(row) for row in rows if row["goal"] == goal]
        lines.append(f"| {goal} | {' | '.join(cells)} |")
    return lines


def _goal_cell(row: dict[str, Any]) -> str:
    text = f"{row['predicted']:.2f} ({row['low']:.2f}..{row['high']:.2f}, {row['moved_most_by']})"
    if row["wanted"] is None:
        return text
    verdict = "reached" if row["predicted"] >= row["wanted"] else "**not reached**"
    return f"{text}; goal {row['wanted']:g}: {verdict}"


def _rows_table(rows: list[dict[str, Any]]) -> list[str]:
    ms = list(dict.fromkeys(row["m"] for row in rows))
    lines = ["| M | " + " | ".join(map(str, ms)) + " |", "|---" * (len(ms) + 1) + "|"]
    for gpu in dict.fromkeys(row["gpu"] for row in rows):
        cells = [_rows_cell(row) for row in rows if row["gpu"] == gpu]
        lines.append(f"| {gpu} | {' | '.join(cells)} |")
    return lines


def _rows_cell(row: dict[str, Any]) -> str:
    if not row["decoded_shapes"]:
        return f"{row['ratio']:.2f}"
    return f"{row['ratio']:.2f} [{row['best_ratio']:.2f}, {row['decoded_shapes']} of 4]"


def _shape_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| GPU | K -> N | float16 | tile: limit | ours | kernel and tile: limit | waves | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['gpu']} | {row['k']} -> {row['n']} | {row['fp16_us']} | {row['fp16']} | "
            f"{row['ours_us']} | {row['ours']} | {row['waves']} | "
            f"{row['fp16_us'] / row['ours_us']:.2f} |"
        )
    return lines


def _step_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| GPU | float16 ms | 2 bits ms | ratio | adaLN part, ms | weights MiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        adaln = [row[f"{w}_parts_ms"]["adaLN"] for w in ("fp16", "2bit")]
        memory = [row[f"{w}_weights_mib"] for w in ("fp16", "2bit")]
        lines.append(
            f"| {row['gpu']} | {row['fp16_ms']} | {row['2bit_ms']} | "
            f"{row['fp16_ms'] / row['2bit_ms']:.2f} | {adaln[0]:.2f} / {adaln[1]:.2f} | "
            f"{memory[0]:.0f} / {memory[1]:.0f} |"
        )
    return lines


def _gpu_table(gpus: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| GPU | SMs | GHz | mma.sync / library FMA per clock and SM | DRAM GB/s | latency us | "
        "L2 MiB | L2 B/clock | launch us | memory GiB |",
        "|---" * 10 + "|",
    ]
    for gpu in gpus:
        cells = [
            _cell(gpu, "num_sms", 1, ".0f"),
            _cell(gpu, "clock_hz", 1e-9, ".2f"),
            f"{_cell(gpu, 'mma_per_clock', 1, '.0f')} / "
            f"{_cell(gpu, 'library_mma_per_clock', 1, '.0f')}",
            _cell(gpu, "dram_bytes_per_second", 1e-9, ".1f"),
            _cell(gpu, "memory_latency_seconds", 1e6, ".2f"),
            _cell(gpu, "l2_bytes", 2**-20, ".0f"),
            _cell(gpu, "l2_bytes_per_clock", 1, ".0f"),
            _cell(gpu, "launch_seconds", 1e6, ".0f"),
            _cell(gpu, "memory_bytes", 2**-30, ".0f"),
        ]
        lines.append(f"| {gpu['name']} ({gpu['title']}) | {' | '.join(cells)} |")
    return lines


def _cell(gpu: dict[str, Any], field: str, scale: float, form: str) -> str:
    mark = "*" if gpu["sources"][field].startswith("assumed") else ""
    return f"{gpu[field] * scale:{form}}{mark}"


def _sources(gpus: list[dict[str, Any]]) -> list[str]:
    lines = ["Sources:"]
    for gpu in gpus:
        texts = dict.fromkeys(
            source
            for field, source in gpu["sources"].items()
            if not source.startswith("assumed") and field not in ("issue_per_clock",)
        )
        lines.append(f"- {gpu['name']}: {'; '.join(t for t in texts if 'TFLOPS of the' not in t)}.")
    return lines
