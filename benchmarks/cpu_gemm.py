"""How fast is one quantized linear on the CPU, against what others run there?

All implementations of a shape run in one process, one call of each in turn, so that they see the
same load on the machine; those whose package is missing are left out, with the reason.
`python benchmarks/cpu_gemm.py --output benchmarks/results/cpu_gemm.json` writes {"machine": {...},
"rows": [{"impl", "m", "k", "n", "threads", "median_ms", "min_ms", "cpu_ms", "rel_error", "gflops",
"peak_share"}]} (k = in_features, n = out_features; cpu_ms: processor time of all threads, median;
gflops: 2 m n k / min_ms; peak_share: of the measured multiply-add peak of `threads` cores) and
prints a table of speed-ups. Rows of an older file that are not measured again stay in it.

Weights: 2 bits, random codebook and assignments, Gaussian x. rel_error is against the float64
product with the decoded weight: for peers it holds their own quantization of that weight too.

Read `cores` (cpu_ms / median_ms) before a ratio: well below `threads` on the large shapes means
that other work held the processors, and the row says nothing about scaling.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import numpy as np
from cpu_gemm_peers import PEERS, Missing, Run, onnx_model, ort_run
from fma_peak import fma_peak_gflops
from machine import machine
from onnx import helper

from vq4dit.plugins import (
    Layout,
    available_isas,
    ort_library_path,
)
from vq4dit.plugins.layout import AssignmentLayout, layout_from_bits
from vq4dit.plugins.packing import pack_assignments
from vq4dit.plugins.reference import codebook_decode
from vq4dit.plugins.schema import CODEBOOK_GEMM, DOMAIN, VERSION, attributes_from_layout

#: (in_features, out_features) of DiT-XL/2's token linears: fc1, qkv, proj, fc2.
TOKEN_SHAPES = ((1152, 4608), (1152, 3456), (1152, 1152), (4608, 1152))
#: adaLN's linear, which sees one row per sample.
ADALN_SHAPE = (1152, 6912)
#: Rows of x: adaLN sees the first three, the token linears the others.
FEW_ROWS = (1, 2, 8)
MANY_ROWS = (64, 256, 512, 1024)
BASELINE = "ort-fp32"
#: Accuracy modes of our library. x gets a batch axis: with two axes int8 keeps the fast kernels.
MODES = ("fast", "exact", "int8")

Row = dict[str, Any]


def main() -> None:
    """Measure all shapes and thread counts."""
    args = _arguments()
    peak = fma_peak_gflops()
    rows: list[Row] = []
    for threads in args.threads:
        for m in args.rows:
            shapes = [*TOKEN_SHAPES, ADALN_SHAPE] if args.all_shapes else _shapes(m)
            for k, n in shapes:
                measured = measure_case(
                    m, k, n, threads=threads, repeats=args.repeats, isa=args.isa, only=args.only
                )
                for row in measured:
                    row["peak_share"] = round(row["gflops"] / (peak * threads), 3) if peak else None
                rows += measured
                print(_table(measured), flush=True)
            if len(shapes) >= len(TOKEN_SHAPES):
                print(_summary(rows, m=m, threads=threads), flush=True)
    if args.output:
        _write(args.output, peak, _merged(args.output, rows))


def measure_case(
    m: int,
    k: int,
    n: int,
    *,
    threads: int,
    repeats: int,
    isa: str | None,
    only: list[str] | None = None,
) -> list[Row]:
    """One row per implementation for x (m, k) times a weight (n, k)."""
    rng = np.random.default_rng(0)
    layout = layout_from_bits(k, 2, AssignmentLayout.FOUR_MAJOR)
    x = rng.standard_normal((m, k), dtype=np.float32)
    shape = (1, layout.codebook_size, layout.sub_vector_len)
    codebook = rng.standard_normal(shape, dtype=np.float32)
    indices = rng.integers(0, layout.codebook_size, (n, layout.num_sub_vectors))
    weights = {
        "codebook": codebook,
        "assignments": pack_assignments(indices, layout),
        "bias": np.zeros(n, np.float32),
    }
    weight = codebook_decode(codebook, weights["assignments"], layout=layout)
    expected = x.astype(np.float64) @ weight.T.astype(np.float64)
    model = _codebook_model(layout, weights)
    runs = {f"vq4dit-{mode}": _our_run(model, x, threads, mode, isa) for mode in MODES}
    runs |= _peer_runs(weight, x, threads, only)
    rows = []
    for impl, times in _interleaved(runs, repeats).items():
        error = np.linalg.norm(runs[impl]() - expected) / np.linalg.norm(expected)
        row: Row = {"impl": impl, "m": m, "k": k, "n": n, "threads": threads} | times
        row["rel_error"] = float(f"{error:.2e}")
        row["gflops"] = round(2e-6 * m * n * k / times["min_ms"], 1)
        rows.append(row)
    return rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write or to add to")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[*FEW_ROWS, 512], help="rows of x to measure"
    )
    parser.add_argument(
        "--all-shapes", action="store_true", help="all shapes for all rows, not those they occur in"
    )
    parser.add_argument("--repeats", type=int, default=9, help="timed calls of each")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--isa", help="scalar, avx2, avx512 or avx512vbmi instead of the best")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), help="peers; default: all")
    return parser.parse_args()


def _shapes(m: int) -> list[tuple[int, int]]:
    return [ADALN_SHAPE] if m <= max(FEW_ROWS) else list(TOKEN_SHAPES)


def _merged(path: Path, rows: list[Row]) -> list[Row]:
    """The rows of an older file with these in place of or behind them."""
    keys = ("threads", "m", "k", "n", "impl")
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    merged = {tuple(row[key] for key in keys): row for row in [*old, *rows]}
    return list(merged.values())


def _write(path: Path, peak: float | None, rows: list[Row]) -> None:
    """One line per row."""
    about = machine(("onnxruntime",)) | {
        "fma_peak_gflops_per_core": peak,
        "isas": list(available_isas()),
    }
    lines = ",\n ".join(json.dumps(row) for row in rows)
    path.write_text(f'{{"machine": {json.dumps(about)},\n"rows": [\n {lines}\n]}}\n')


def _codebook_model(layout: Layout, weights: dict[str, np.ndarray]) -> bytes:
    node = helper.make_node(
        CODEBOOK_GEMM.name,
        CODEBOOK_GEMM.inputs,
        ["y"],
        domain=DOMAIN,
        **attributes_from_layout(CODEBOOK_GEMM, layout),
    )
    return onnx_model([node], weights, (DOMAIN, VERSION), batched=True)


def _our_run(model: bytes, x: np.ndarray, threads: int, mode: str, isa: str | None) -> Run:
    path = ort_library_path()
    if path is None:
        raise SystemExit("the CPU library was not built: install vq4dit with a C++ compiler")
    entries = {"accuracy": mode} | ({"isa": isa} if isa else {})
    run = ort_run(model, x[None], threads, library=str(path), **entries)
    return lambda: run()[0]


def _peer_runs(
    weight: np.ndarray, x: np.ndarray, threads: int, only: list[str] | None
) -> dict[str, Run]:
    runs = {}
    for name, peer in PEERS.items():
        if only and name not in only and name != BASELINE:
            continue
        try:
            runs[name] = peer(weight, x, threads)
        except Missing as missing:
            print(f"  {name} left out: {missing}")
    return runs


def _interleaved(runs: dict[str, Run], repeats: int) -> dict[str, dict[str, float]]:
    """Time one call of each in turn; short calls are repeated to at least a few milliseconds."""
    calls = {}
    for impl, run in runs.items():
        run()
        start = time.perf_counter()
        run()
        calls[impl] = max(1, int(4e-3 / max(time.perf_counter() - start, 1e-6)))
    wall: dict[str, list[float]] = {impl: [] for impl in runs}
    processor: dict[str, list[float]] = {impl: [] for impl in runs}
    for _ in range(repeats):
        for impl, run in runs.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            for _ in range(calls[impl]):
                run()
            wall[impl].append((time.perf_counter() - start) / calls[impl] * 1e3)
            processor[impl].append((time.process_time() - start_cpu) / calls[impl] * 1e3)
    return {
        impl: {
            "median_ms": round(median(wall[impl]), 4),
            "min_ms": round(min(wall[impl]), 4),
            "cpu_ms": round(median(processor[impl]), 4),
        }
        for impl in runs
    }


def _table(rows: list[Row]) -> str:
    base = next(row for row in rows if row["impl"] == BASELINE)
    first = rows[0]
    lines = [f"threads {first['threads']} M {first['m']} {first['k']} -> {first['n']}"]
    for row in rows:
        ratios = [base[key] / row[key] for key in ("min_ms", "median_ms", "cpu_ms")]
        cores = row["cpu_ms"] / row["median_ms"]
        lines.append(
            f"  {row['impl']:18} {row['median_ms']:9.3f} ms median on {cores:.1f} cores "
            "{:6.2f}x min {:6.2f}x median {:6.2f}x cpu".format(*ratios)
            + f"  {row['gflops']:7.1f} GFLOP/s  error {row['rel_error']:.1e}"
        )
    return "\n".join(lines)


def _summary(rows: list[Row], *, m: int, threads: int) -> str:
    """Geometric mean over the token shapes of the speed-up over ONNX Runtime's float32."""
    chosen = [
        row
        for row in rows
        if (row["m"], row["threads"]) == (m, threads) and (row["k"], row["n"]) in TOKEN_SHAPES
    ]
    lines = [f"threads {threads} M {m}, geometric mean over the token shapes"]
    for impl in dict.fromkeys(row["impl"] for row in chosen):
        means = []
        for key in ("min_ms", "median_ms", "cpu_ms"):
            base = [row[key] for row in chosen if row["impl"] == BASELINE]
            ours = [row[key] for row in chosen if row["impl"] == impl]
            means.append(geometric_mean(b / o for b, o in zip(base, ours, strict=True)))
        lines.append(f"  {impl:18} " + "{:.2f}x min {:.2f}x median {:.2f}x cpu".format(*means))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
