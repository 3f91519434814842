"""The pictures of the report, each a function from rows of a profile to SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .numbers import data_size, percent, three_digits
from .parts import PARTS
from .svg import Scale, drawing, element, linear_scale, log_scale, text, tooltip

#: Layers of a block in the order in which they run.
_KINDS = ("adaLN_modulation.1", "modulation", "norm1", "attn.qkv", "attn", "attn.proj", "norm2",
          "mlp.fc1", "mlp.fc2")  # fmt: skip

_WIDTH = 880.0
_LEFT, _RIGHT = 170.0, 90.0
_AXIS = 78.0
_BAR, _STEP = 26.0, 42.0
_ROW, _GAP = 24.0, 14.0
_MIB = 1 << 20

#: Style classes of series that are engines, and of parts of the DiT.
ENGINE_CLASSES = tuple(f"e{i}" for i in range(6))
PART_CLASSES = {part: f"p{i}" for i, part in enumerate(PARTS)}


def legend(items: Mapping[str, str]) -> str:
    """Names with their colours as HTML; items: name -> style class."""
    return element(
        "p",
        "".join(
            f'<span class="key"><svg viewBox="0 0 10 10"><rect width="10" height="10" rx="2" '
            f'class="{css}"/></svg>{name}</span>'
            for name, css in items.items()
        ),
        class_="legend",
    )


def stacked_bars(
    bars: Sequence[tuple[str, Sequence[tuple[str, str, float]]]], *, unit: str, label: str
) -> str:
    """Horizontal bars of parts that add up.

    bars: (name, [(part, style class, value)]); values of 0 and below are not drawn.
    """
    totals = [sum(max(0.0, value) for _, _, value in parts) for _, parts in bars]
    scale = linear_scale(totals, _LEFT, _WIDTH - _RIGHT)
    height = _STEP * len(bars) + 30
    out = _vertical_grid(scale, 4, height - 26, unit)
    for i, ((name, parts), total) in enumerate(zip(bars, totals, strict=True)):
        y = 8 + _STEP * i
        out.append(text(_LEFT - 10, y + _BAR * 0.7, _short(name), text_anchor="end"))
        x = 0.0
        for part, css, value in parts:
            if value <= 0:
                continue
            words = f"{name}, {part}: {three_digits(value)} {unit}, {percent(value / total)}"
            out.append(_bar(scale(x), y, scale(x + value) - scale(x), css, words))
            x += value
        out.append(
            text(scale(total) + 8, y + _BAR * 0.7, f"{three_digits(total)} {unit}", class_="value")
        )
    return drawing(_WIDTH, height, out, label=label)


def runs_chart(series: Sequence[tuple[str, str, Sequence[float]]], *, label: str) -> str:
    """Each run as a dot, in order: drift and outliers are seen. series: (name, class, ms)."""
    height, bottom = 230.0, 200.0
    longest = max(len(values) for _, _, values in series)
    x = Scale(low=0, high=max(longest - 1, 1), start=_AXIS + 8, end=_WIDTH - 20)
    y = linear_scale([v for _, _, values in series for v in values], bottom, 12)
    out = _horizontal_grid(y, _AXIS, _WIDTH - 20, "ms")
    for name, css, values in series:
        for i, value in enumerate(values):
            words = f"{name}, run {i + 1}: {three_digits(value)} ms"
            out.append(element("circle", tooltip(words), cx=x(i), cy=y(value), r=3.0, class_=css))
    out.append(text(_WIDTH - 20, height - 8, "run", text_anchor="end", class_="tick"))
    return drawing(_WIDTH, height, out, label=label)


def line_chart(
    series: Sequence[tuple[str, str, Sequence[tuple[float, float]]]],
    *,
    unit: str,
    x_name: str,
    label: str,
) -> str:
    """Lines over batch sizes, which stand at equal distances. series: (name, class, [(x, y)])."""
    height, bottom = 260.0, 218.0
    places = sorted({px for _, _, points in series for px, _ in points})
    x = Scale(low=0, high=max(len(places) - 1, 1), start=_AXIS + 20, end=_WIDTH - 60)
    y = linear_scale([py for _, _, points in series for _, py in points], bottom, 14)
    out = _horizontal_grid(y, _AXIS, _WIDTH - 20, unit)
    for i, place in enumerate(places):
        out.append(text(x(i), bottom + 18, f"{place:g}", text_anchor="middle", class_="tick"))
    out.append(text(_WIDTH - 20, height - 6, x_name, text_anchor="end", class_="tick"))
    for name, css, points in series:
        spots = [(x(places.index(px)), y(py), px, py) for px, py in points]
        path = " ".join(f"{a:.2f},{b:.2f}" for a, b, _, _ in spots)
        out.append(element("polyline", points=path, class_=f"line {css}"))
        for a, b, px, py in spots:
            words = f"{name}, {x_name} {px:g}: {three_digits(py)} {unit}"
            out.append(element("circle", tooltip(words), cx=a, cy=b, r=4.5, class_=css))
    return drawing(_WIDTH, height, out, label=label)


def roofline(layers: Sequence[Mapping[str, Any]], peaks: Mapping[str, Any], *, label: str) -> str:
    """Layers as dots (area: time) under the roof of the machine's peaks.

    Source: Williams, Waterman & Patterson 2009.
    """
    rows = [r for r in layers if r["gflops"] and r["flops_per_byte"] > 0]
    height, bottom = 380.0, 336.0
    ridge = peaks["ridge_flops_per_byte"]
    x = log_scale([ridge, *(r["flops_per_byte"] for r in rows)], 70, _WIDTH - 20)
    floor = min([peaks["gflops"], *(r["gflops"] for r in rows)])
    y = log_scale([floor, *(r["gflops"] for r in rows), peaks["gflops"]], bottom, 14)
    out = _log_grid(x, y, bottom)
    roof = [(px, min(peaks["gflops"], px * peaks["gbytes_per_s"])) for px in (x.low, ridge, x.high)]
    if roof[0][1] < y.low:
        roof[0] = (y.low / peaks["gbytes_per_s"], y.low)
    out.append(element("polyline", points=" ".join(f"{x(a):.2f},{y(b):.2f}" for a, b in roof),
                       class_="roof"))  # fmt: skip
    longest = max((r["ms"] for r in rows), default=1.0)
    for row in sorted(rows, key=lambda r: -r["ms"]):
        words = (
            f"{row['layer']} ({row['part']}): {three_digits(row['ms'])} ms, "
            f"{three_digits(row['gflops'])} GFLOP/s, {three_digits(row['gbytes_per_s'])} GB/s, "
            f"{percent(row['roof_share'])} of the roof"
        )
        radius = 3 + 9 * (row["ms"] / longest) ** 0.5
        out.append(element("circle", tooltip(words), cx=x(row["flops_per_byte"]),
                           cy=y(max(row["gflops"], y.low)), r=radius,
                           class_=f"dot {PART_CLASSES[row['part']]}"))  # fmt: skip
    out.append(
        text(_WIDTH - 20, height - 6, "operations per byte", text_anchor="end", class_="tick")
    )
    out.append(text(x.start + 6, y.end + 12, "GFLOP/s", class_="tick"))
    out += _roof_labels(x, y, roof[0][0], peaks)
    return drawing(_WIDTH, height, out, label=label)


def _roof_labels(x: Scale, y: Scale, low: float, peaks: Mapping[str, Any]) -> list[str]:
    """Both peaks in numbers, on the roof; low: where its slope begins, operations per byte."""
    ridge, slope = peaks["ridge_flops_per_byte"], (low * peaks["ridge_flops_per_byte"]) ** 0.5
    return [
        text(x(ridge), y(peaks["gflops"]) - 9, f"{three_digits(peaks['gflops'])} GFLOP/s",
             text_anchor="end", class_="value halo"),
        text(x(slope) - 8, y(slope * peaks["gbytes_per_s"]) - 6,
             f"{three_digits(peaks['gbytes_per_s'])} GB/s", text_anchor="end",
             class_="value halo"),
    ]  # fmt: skip


def block_map(layers: Sequence[Mapping[str, Any]], *, label: str) -> str:
    """Time of each kind of layer (rows) in each block (columns), darker for longer."""
    cells: dict[tuple[str, int], float] = {}
    for row in layers:
        pieces = row["layer"].split(".", 2)
        if len(pieces) == 3 and pieces[0] == "blocks" and pieces[1].isdecimal():
            cells[pieces[2], int(pieces[1])] = row["ms"]
    if not cells:
        return ""
    found = dict.fromkeys(kind for kind, _ in cells)
    kinds = sorted(found, key=lambda k: _KINDS.index(k) if k in _KINDS else len(_KINDS))
    depth = 1 + max(block for _, block in cells)
    size = min(60.0, (_WIDTH - _LEFT - 20) / depth)
    row_height, longest = 28.0, max(cells.values())
    out = []
    for i, kind in enumerate(kinds):
        out.append(text(_LEFT - 10, 18 + row_height * i, kind, text_anchor="end"))
        for block in range(depth):
            ms = cells.get((kind, block))
            if ms is None:
                continue
            words = f"blocks.{block}.{kind}: {three_digits(1e3 * ms)} us"
            left, top = _LEFT + size * block, row_height * i
            out.append(element("rect", tooltip(words), x=left + 1, y=top + 1, width=size - 2,
                               height=row_height - 2, rx=3, class_="cell",
                               fill_opacity=0.06 + 0.94 * ms / longest))  # fmt: skip
            if size >= 44:
                css = "cell-dark" if ms > 0.55 * longest else "cell-light"
                out.append(text(left + size / 2, top + 18, three_digits(1e3 * ms),
                                text_anchor="middle", class_=css))  # fmt: skip
    bottom = row_height * len(kinds) + 16
    for block in range(0, depth, 1 if size >= 22 else 4):
        out.append(text(_LEFT + size * (block + 0.5), bottom, str(block), text_anchor="middle",
                        class_="tick"))  # fmt: skip
    out.append(text(_LEFT - 10, bottom, "block", text_anchor="end", class_="tick"))
    return drawing(_WIDTH, bottom + 8, out, label=label)


def memory_bars(engines: Sequence[Mapping[str, Any]], *, label: str) -> str:
    """Resident memory after each phase, written and mapped, with a mark at the phase's peak."""
    peaks = [p["peak_bytes"] / _MIB for e in engines for p in e["memory"]["phases"]]
    scale = linear_scale(peaks, _LEFT + 60, _WIDTH - _RIGHT)
    height = _ROW * len(peaks) + _GAP * len(engines) + 30
    out = _vertical_grid(scale, 4, height - 26, "MiB")
    y = 4.0
    for engine in engines:
        out.append(text(0, y + 14, _short(engine["name"]), class_="value"))
        for phase in engine["memory"]["phases"]:
            out += _memory_bar(scale, y, engine["name"], phase)
            y += _ROW
        y += _GAP
    return drawing(_WIDTH, height, out, label=label)


def _memory_bar(scale: Scale, y: float, name: str, phase: Mapping[str, Any]) -> list[str]:
    """One phase: its name, two bars that add up, the peak."""
    out = [text(_LEFT + 50, y + 14, phase["phase"], text_anchor="end")]
    x = 0.0
    for kind, css, key in (("written", "m0", "anonymous_bytes"), ("mapped", "m1", "file_bytes")):
        width = phase[key] / _MIB
        words = f"{name}, {phase['phase']}: {kind} {data_size(phase[key])}"
        out.append(_bar(scale(x), y, scale(x + width) - scale(x), css, words, height=18.0))
        x += width
    peak = scale(phase["peak_bytes"] / _MIB)
    words = data_size(phase["peak_bytes"])
    out.append(element("line", tooltip(f"peak {words}"), x1=peak, x2=peak, y1=y - 1, y2=y + 19,
                       class_="peak"))  # fmt: skip
    return [*out, text(peak + 8, y + 14, words, class_="value")]


def _bar(x: float, y: float, width: float, css: str, words: str, height: float = _BAR) -> str:
    return element("rect", tooltip(words), x=x, y=y, width=max(width - 1, 0.5), height=height,
                   class_=css)  # fmt: skip


def _vertical_grid(scale: Scale, top: float, bottom: float, unit: str) -> list[str]:
    out = []
    for tick in scale.ticks():
        x = scale(tick)
        out.append(element("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"))
        words = f"{tick:g} {unit}" if tick == scale.ticks()[-1] else f"{tick:g}"
        out.append(text(x, bottom + 16, words, text_anchor="middle", class_="tick"))
    return out


def _horizontal_grid(scale: Scale, left: float, right: float, unit: str) -> list[str]:
    out = []
    for tick in scale.ticks():
        y = scale(tick)
        out.append(element("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
        words = f"{tick:g} {unit}" if tick == scale.ticks()[-1] else f"{tick:g}"
        out.append(text(left - 6, y + 4, words, text_anchor="end", class_="tick"))
    return out


def _log_grid(x: Scale, y: Scale, bottom: float) -> list[str]:
    out = []
    for tick in x.ticks():
        out.append(element("line", x1=x(tick), x2=x(tick), y1=y.end, y2=bottom, class_="grid"))
        out.append(text(x(tick), bottom + 16, f"{tick:g}", text_anchor="middle", class_="tick"))
    for tick in y.ticks():
        out.append(element("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="grid"))
        out.append(text(x.start - 6, y(tick) + 4, f"{tick:g}", text_anchor="end", class_="tick"))
    return out


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"...{name[-19:]}"
