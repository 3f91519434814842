"""Draws what a calibration did as calibration.png. Needs matplotlib, which is imported when used.

One panel each, where there is something to show: loss of the open ratios, share of sub-vectors that
are decided, loss of the distillation, relative weight error of every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vq4dit.atomic_file import atomic_path
from vq4dit.errors import BackendUnavailable

from .layer_kinds import kind_of, weights_of
from .summary import CalibrationSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colour and marker of each kind of linear; colours of Okabe and Ito, told apart by colour-blind
#: readers too.
_KINDS = {
    "adaLN": ("#0072B2", "o"),
    "qkv": ("#E69F00", "s"),
    "proj": ("#009E73", "^"),
    "fc1": ("#D55E00", "D"),
    "fc2": ("#CC79A7", "v"),
}
_OTHER_KIND = ("#555555", "x")
_LINE = "#0072B2"
_PANEL_SIZE = (5.6, 3.5)  # inches
_DPI = 130

#: Blocks are told apart by a colour bar from this many on, by a legend below.
_COLOUR_BAR_FROM = 9

#: Of the 256 colours of viridis, those that stand out from white paper.
_DARK_PART = 236

#: Steps in the running mean of the distillation's loss, which jumps from batch to batch.
_RUNNING_MEAN = 10

Panel = Callable[["Axes", CalibrationSummary], None]


def require_matplotlib() -> None:
    """Raise BackendUnavailable, with what to do, where reports cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise BackendUnavailable(
            "drawing a calibration report needs matplotlib; pip install 'vq4dit[calibrate]'"
        ) from None


def write_report(path: Path, summary: CalibrationSummary) -> None:
    """Draw the report and write it whole or not at all.

    Args:
        path: PNG file; its folder must exist.
        summary: of the finished calibration.
    Raises:
        BackendUnavailable: matplotlib is not installed.   OSError: the disk does not take it.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(summary)
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    width, height = _PANEL_SIZE
    figure = Figure(figsize=(width * columns, height * rows + 0.4), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title(summary), fontsize=12)
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        panel(axes, summary)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "vq4dit"})


def title(summary: CalibrationSummary) -> str:
    """Model, bits and recipe in one line."""
    total = sum(summary.layer_bytes.values())
    weights = sum(weights_of(summary).values())
    with_codebooks = f" ({8 * total / weights:.3f} with codebooks)" if weights else ""
    return f"{summary.model}: {summary.bits} bits{with_codebooks}, recipe {summary.recipe}"


def _panels(summary: CalibrationSummary) -> list[Panel]:
    """The panels that have something to show."""
    panels: list[Panel] = []
    if summary.soft:
        panels += [_soft_loss, _frozen_share]
    if summary.distill:
        panels.append(_distillation)
    return [*panels, _weight_error]


def _soft_loss(axes: Axes, summary: CalibrationSummary) -> None:
    """Loss of the open ratios, a line per block."""
    _block_lines(axes, summary, "feature_loss", scale=1.0)
    axes.set_yscale("log")
    axes.set_title("Open ratios: distance to the teacher", fontsize=10)
    per_block = "squared error / block's squared update"
    axes.set_ylabel(per_block if _has_blocks(summary) else "squared error, mean over blocks")


def _frozen_share(axes: Axes, summary: CalibrationSummary) -> None:
    """Decided sub-vectors in per cent, a line per block."""
    _block_lines(axes, summary, "frozen_share", scale=100.0)
    axes.set_ylim(-3, 103)
    axes.set_title("Open ratios: decided sub-vectors", fontsize=10)
    axes.set_ylabel("frozen sub-vectors (%)")


def _block_lines(axes: Axes, summary: CalibrationSummary, key: str, *, scale: float) -> None:
    """Draw one value of the soft stage over its steps, dark to light by block."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.ticker import MaxNLocator

    curves: dict[int, list[float]] = {}
    for row in summary.soft:
        curves.setdefault(int(row.get("block", 0)), []).append(scale * row[key])
    norm = Normalize(min(curves), max(max(curves), min(curves) + 1))
    viridis = colormaps["viridis"]
    palette = ListedColormap([viridis(i) for i in range(_DARK_PART)])
    for block, values in curves.items():
        colour = palette(float(norm(block))) if len(curves) > 1 else _LINE
        axes.plot(range(1, len(values) + 1), values, color=colour, label=f"{block}", linewidth=1.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimizer step" + (" in the block" if _has_blocks(summary) else ""))
    if len(curves) >= _COLOUR_BAR_FROM:
        axes.figure.colorbar(ScalarMappable(norm, palette), ax=axes, label="block")
    elif len(curves) > 1:
        axes.legend(title="block", fontsize=7, title_fontsize=8, ncols=2)


def _has_blocks(summary: CalibrationSummary) -> bool:
    """Whether each block had its own soft stage, not the whole model at once."""
    return any("block" in row for row in summary.soft)


def _distillation(axes: Axes, summary: CalibrationSummary) -> None:
    """Loss of the distillation: every batch, and the running mean."""
    steps = range(1, len(summary.distill) + 1)
    axes.plot(steps, summary.distill, color="#9ec9e2", linewidth=0.9, label="one batch")
    means = running_mean(summary.distill, _RUNNING_MEAN)
    axes.plot(steps, means, color=_LINE, linewidth=1.6, label=f"mean of {_RUNNING_MEAN} steps")
    axes.set_yscale("log")
    axes.set_title("Distillation of codebooks and biases", fontsize=10)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("relative squared error of the output")
    axes.legend(fontsize=8)


def _weight_error(axes: Axes, summary: CalibrationSummary) -> None:
    """Relative weight error over the blocks, a line per kind of linear."""
    from matplotlib.ticker import MaxNLocator

    errors: dict[str, dict[int, float]] = {}
    for name, error in summary.weight_error.items():
        errors.setdefault(kind_of(name), {})[int(name.split(".")[1])] = 100 * error
    for kind, by_block in errors.items():
        colour, marker = _KINDS.get(kind, _OTHER_KIND)
        axes.plot(
            list(by_block), list(by_block.values()),
            color=colour, marker=marker, markersize=4, linewidth=1.2, label=kind,
        )  # fmt: skip
    axes.set_ylim(0, 1.2 * max(axes.get_ylim()[1], 1e-6))  # room for the legend above the lines
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Weights: error by layer", fontsize=10)
    axes.set_xlabel("block")
    axes.set_ylabel("|W - Wq|² / |W|² (%)")
    axes.legend(fontsize=8, ncols=len(errors), loc="upper center", columnspacing=1.0)


def running_mean(values: Sequence[float], length: int) -> list[float]:
    """Mean of each value and up to length - 1 before it."""
    return [
        sum(values[max(0, i + 1 - length) : i + 1]) / min(i + 1, length) for i in range(len(values))
    ]
