"""Picture of mixed_precision.json: latent error over bits per weight, uniform and mixed.

    python benchmarks/plot_mixed_precision.py

Writes docs/images/mixed-precision.png.
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
_COLOURS = {"kmeans": "#8a9199", "vq4dit": "#0b6e99"}
_MARKERS = {"uniform": "o", "mixed": "x"}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A line through the uniform models of each recipe, the mixed ones beside it."""
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for recipe, colour in _COLOURS.items():
        for kind, marker in _MARKERS.items():
            points = sorted(
                (row["bits_per_weight"], row["relative_latent_error"])
                for row in rows
                if row["recipe"] == recipe and row["name"].startswith(kind) and "error" not in row
            )
            axis.plot(
                *zip(*points, strict=True), marker, color=colour, markersize=7,
                linestyle="-" if kind == "uniform" else "none", label=f"{recipe}, {kind}",
            )  # fmt: skip
    axis.set_yscale("log")
    axis.set_xlabel("bits per weight, codebooks included")
    axis.set_ylabel("relative latent error")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Read the results, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--results", type=Path, default=_FOLDER / "results" / "mixed_precision.json"
    )
    parser.add_argument(
        "--output", type=Path, default=_FOLDER.parent / "docs" / "images" / "mixed-precision.png"
    )
    args = parser.parse_args()
    draw(json.loads(args.results.read_text(encoding="utf-8"))["rows"], args.output)


if __name__ == "__main__":
    main()
