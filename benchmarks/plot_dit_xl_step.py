"""Picture of dit_xl_step.json for the README: time of a step and peak memory, side by side.

    python benchmarks/plot_dit_xl_step.py [--threads 2]

Writes docs/images/dit-xl-step.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

_FOLDER = Path(__file__).resolve().parent
_OURS, _OTHERS = "#0b6e99", "#b8bec4"
_NAMES = {
    "vq4dit-fast": "vq4dit, fast",
    "vq4dit-exact": "vq4dit, exact",
    "vq4dit-int8": "vq4dit, int8",
    "ort-fp32": "ONNX Runtime, float32",
    "ort-int8-dynamic": "ONNX Runtime, int8",
    "openvino-fp32": "OpenVINO, float32",
    "openvino-int8": "OpenVINO, int8 weights",
}


def draw(rows: list[dict[str, Any]], path: Path, *, title: str) -> None:
    """Bars of the rows, fastest on top."""
    rows = sorted(rows, key=lambda row: -row["median_ms"])
    names = [_NAMES[row["impl"]] for row in rows]
    colours = [_OURS if row["impl"].startswith("vq4dit") else _OTHERS for row in rows]
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.9), sharey=True, layout="constrained")
    panels = (
        ("one step, seconds", [row["median_ms"] / 1e3 for row in rows], "{:.2f}"),
        ("peak memory, MB", [row["peak_rss_bytes"] / 1e6 for row in rows], "{:,.0f}"),
    )
    for axis, (label, values, text) in zip(axes, panels, strict=True):
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, [text.format(value) for value in values], padding=3, fontsize=8)
        axis.set_xlabel(label)
        axis.margins(x=0.16)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Read the results, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=_FOLDER / "results" / "dit_xl_step.json")
    parser.add_argument(
        "--output", type=Path, default=_FOLDER.parent / "docs" / "images" / "dit-xl-step.png"
    )
    args = parser.parse_args()
    document = json.loads(args.results.read_text())
    rows = [row for row in document["rows"] if row["threads"] == args.threads]
    machine = document["machine"]["processor"]
    title = f"DiT-XL/2 256x256 with guidance, batch 1, {args.threads} threads, {machine}"
    draw(rows, args.output, title=title)


if __name__ == "__main__":
    main()
