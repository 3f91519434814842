"""Renders the static report of the CUDA kernels as Markdown."""

from __future__ import annotations

from typing import Any

_METHOD = """\
**Question.** What do the CUDA kernels take (registers, shared memory, instructions) before any GPU
runs them, against plain float16 GEMMs of the same tile?

**Method.** Compiled by {compiler} for each architecture; machine code by nvdisasm, registers by
cuobjdump. Loop: instructions of one warp for 64 columns of x (GEMV: of one round). Twin: the same
kernel with W in float16, by cp.async and ldmatrix (`benchmarks/cuda_baseline/gemm_fp16.cu`).
Triton: a plain GEMM that Triton compiles. Blocks: resident per SM by registers, threads and shared
memory. wgmma: its loop is a round of two steps of 64 columns. None of these is a time. Goal: no
spills, and loops at most 1.2 times a plain GEMM's.

```
python benchmarks/cuda_static.py
```
"""

#: Architectures whose table is printed; the others have a line each.
_PRINTED = 80


def render(document: dict[str, Any]) -> str:
    """The section's text."""
    rows = document["rows"]
    lines = ["## The CUDA kernels, statically (`cuda_static.py`)", ""]
    lines += [_METHOD.format(compiler=document["compiler"])]
    lines += [f"Compute capability {_PRINTED / 10}:", "", *_table(rows, _PRINTED), ""]
    lines += ["Kernels for 9.0 alone (HMMA: products of 64 rows by all of the tile's):", ""]
    lines += [*_table([row for row in rows if row["kernel"] == "wgmma"], 90), ""]
    lines += ["All architectures, 2 bits:", "", *_architectures(rows), ""]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]], sm: int) -> list[str]:
    columns = ("HMMA", "LDS", "LDSM", "LDGSTS", "LDG", "ALU")
    lines = [
        "| kernel | registers | spills | shared B | blocks | loop | twin | Triton | "
        + " | ".join(columns)
        + " |",
        "|---" + "|---:" * (7 + len(columns)) + "|",
    ]
    for row in rows:
        if row["sm"] != sm:
            continue
        plain = [_compared(row[name]) for name in ("twin", "triton")]
        cells = [
            f"`{row['name'].removeprefix('vq4dit_')}`",
            *(str(row[k]) for k in ("registers", "spills", "shared_bytes", "blocks_per_sm")),
            str(row["loop_instructions"]),
            *plain,
            *(str(row["loop"].get(name, 0)) for name in columns),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _compared(plain: dict[str, Any] | None) -> str:
    return f"{plain['loop_instructions']} ({plain['ratio']:.2f}x)" if plain else "-"


def _architectures(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| sm | kernels | spills | most registers | GEMM loop over twin's | over Triton's |",
        "|---|---|---|---|---|---|",
    ]
    for sm in sorted({row["sm"] for row in rows}):
        of_sm = [row for row in rows if row["sm"] == sm]
        gemms = [
            row for row in of_sm if row["name"].startswith("vq4dit_gemm_f16_k256d4_mma16_none")
        ]
        lines.append(
            f"| {sm} | {len(of_sm)} | {sum(r['spills'] for r in of_sm)} | "
            f"{max(r['registers'] for r in of_sm)} | {_ratios(gemms, 'twin')} | "
            f"{_ratios(gemms, 'triton')} |"
        )
    return lines


def _ratios(rows: list[dict[str, Any]], plain: str) -> str:
    found = [
        f"{row['name'].rpartition('none_')[2]} {row[plain]['ratio']:.2f}"
        for row in rows
        if row[plain]
    ]
    return ", ".join(found) or "-"
