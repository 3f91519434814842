"""Renders the study as Markdown, and puts it in its marked section of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vq4dit.atomic_file import atomic_path
from vq4dit.errors import ArtifactError

_HEADINGS = (
    "recipe", "bits", "bits/weight", "n", "seed", "Fréchet", "x FP", "latent error", "diversity",
    "accuracy", "s", "CPU s", "peak MiB",
)  # fmt: skip

_ORDER = ("fp", "rtn", "kmeans", "paper", "reference", "vq4dit")

_METHOD = """\
`fp`: full precision. `rtn`: round-to-nearest, asymmetric, groups of 64 inputs with a float16 scale
and zero point. `kmeans`: codebooks alone. `paper`, `reference`: VQ4DiT as written and as published.
`vq4dit`: our default. n: codewords in a candidate set, 1 where nothing is left open. All linears of
all blocks are quantized; bits per weight count codebooks, scales and packing. Metrics as in
`docs/evaluation.md`: equal labels and noise for all models, DDIM, cfg 2, CPU engine; "x FP" is the
Fréchet distance over full precision's. Accuracy rises when samples collapse. Seconds (wall, CPU
time) and peak memory are those of the calibration, which runs in a process of its own. Other
work ran beside many rows: compare CPU seconds.

A Fréchet distance alone can mislead: at 2 bits round-to-nearest is "better" than full precision,
and its pictures are full of blotches that a person sees at once. They vary 1.7 times as much within
a class, which makes up for the variety that guidance takes away, and 128 features of a small
classifier do not see the blotches. Latent error and diversity beside it tell."""


def render(document: dict[str, Any]) -> str:
    """The section's text: method, command, machine, a table per number of pictures and steps."""
    rows = document["rows"]
    lines = ["## Calibration: ablation on the demonstration model", "", _METHOD, ""]
    lines += ["Command: `python benchmarks/calibration.py`. " + _machine_line(document), ""]
    for num_images, steps in sorted({(r["num_images"], r["steps"]) for r in rows}):
        chosen = [r for r in rows if (r["num_images"], r["steps"]) == (num_images, steps)]
        lines += [f"### {num_images:,} pictures, {steps} DDIM steps", ""]
        lines += _table(sorted(chosen, key=_rank)) + [""]
    failures = [f"- `{r['name']}`: {r['error']}" for r in rows if "error" in r]
    if failures:
        lines += ["Failures:", "", *failures, ""]
    return "\n".join(lines)


def replace_section(path: Path, name: str, text: str) -> None:
    """Put text between <!-- name --> and <!-- /name -->; the file or the section may be missing.

    Raises:
        ArtifactError: the file has one of the two markers, not both in order.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = path.read_text(encoding="utf-8") if path.is_file() else "# Measurements\n"
    section = f"{begin}\n{text.strip()}\n{end}"
    before, found, rest = old.partition(begin)
    _, closed, after = rest.partition(end)
    if bool(found) != (end in old) or (found and not closed):
        raise ArtifactError(f"{path}: needed both {begin} and {end}, in this order, or neither")
    new = before + section + after if found else f"{old.rstrip()}\n\n{section}\n"
    with atomic_path(path) as temporary:
        temporary.write_text(new, encoding="utf-8")


def _machine_line(document: dict[str, Any]) -> str:
    machine = document["machine"]
    processors = sorted({row["processor"] for row in document["rows"]})
    versions = ", ".join(f"{name} {text}" for name, text in machine["versions"].items())
    return f"Machine: {' and '.join(processors)}, {machine['processors']} processors; {versions}."


def _rank(row: dict[str, Any]) -> tuple[Any, ...]:
    """Full precision first, then by bits, recipe, candidates and seed."""
    order = _ORDER.index(row["recipe"])
    return (order > 0, row["bits"], order, row["candidates"], row["seed"])


def _table(rows: list[dict[str, Any]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(_HEADINGS) - 1)
    return [_line(_HEADINGS), _line(rule), *(_line(_cells(row)) for row in rows)]


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: dict[str, Any]) -> list[str]:
    candidates = str(row["candidates"]) if row["candidates"] else "-"
    is_calibrated = row["recipe"] not in ("fp", "rtn")
    seed = str(row["seed"]) if is_calibrated else "-"
    first = [row["recipe"], str(row["bits"])]
    if "error" in row:
        missing = len(_HEADINGS) - 6
        return [*first, "-", candidates, seed, "failed", *["-"] * missing]
    return [
        *first,
        f"{row['bits_per_weight']:.3f}",
        candidates,
        seed,
        _number(row["frechet_distance"], 3),
        _number(row["frechet_ratio"], 3),
        _number(row["relative_latent_error"], 4),
        _number(row["diversity"], 3),
        _number(row["label_accuracy"], 3),
        *(_cost(row) if is_calibrated else ["-"] * 3),
    ]


def _cost(row: dict[str, Any]) -> list[str]:
    """Seconds, CPU seconds and peak memory of the calibration."""
    memory = f"{row['peak_rss_bytes'] / 2**20:,.0f}"
    return [f"{row['seconds']:.0f}", f"{row['cpu_seconds']:.0f}", memory]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
