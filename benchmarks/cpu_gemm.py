"""How fast is one quantized linear on the CPU, against ONNX Runtime's float32 MatMul?

All implementations of a shape run in one process, one call of each in turn, so that they see the
same load on the machine. `python benchmarks/cpu_gemm.py --output benchmarks/results/cpu_gemm.json`
writes {"machine": {...}, "rows": [{"impl", "m", "k", "n", "threads", "median_ms", "min_ms",
"cpu_ms", "rel_error"}]} (k = in_features, n = out_features; cpu_ms: processor time of all threads,
median) and prints a table of speed-ups. Weights: 2 bits, random codebook and assignments, Gaussian
x; rel_error is against the float64 product with the decoded weight.

Read `cores` (cpu_ms / median_ms) before a ratio: well below `threads` on the large shapes means
that other work held the processors, and the row says nothing about scaling.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from vq4dit.plugins import (
    CONFIGURATIONS,
    Layout,
    available_isas,
    default_group_order,
    ort_library_path,
)
from vq4dit.plugins.layout import AssignmentLayout
from vq4dit.plugins.packing import pack_assignments
from vq4dit.plugins.reference import codebook_decode
from vq4dit.plugins.schema import CODEBOOK_GEMM, DOMAIN, VERSION, attributes_from_layout

#: (in_features, out_features) of DiT-XL/2's token linears: fc1, qkv, proj, fc2.
TOKEN_SHAPES = ((1152, 4608), (1152, 3456), (1152, 1152), (4608, 1152))
#: adaLN's linear, which sees one row per sample, and fc1 for comparison.
FEW_ROW_SHAPES = ((1152, 6912), (1152, 4608))
FEW_ROWS = (1, 2, 8)

Run = Callable[[], np.ndarray]


def main() -> None:
    """Measure all shapes and thread counts."""
    args = _arguments()
    cases = [(args.rows, *shape) for shape in TOKEN_SHAPES]
    cases += [(m, *shape) for shape in FEW_ROW_SHAPES for m in FEW_ROWS]
    rows = []
    for threads in args.threads:
        for m, k, n in cases:
            measured = measure_case(m, k, n, threads=threads, repeats=args.repeats, isa=args.isa)
            rows += measured
            print(_table_line(measured), flush=True)
        print(_summary(rows, m=args.rows, threads=threads), flush=True)
    if args.output:
        document = {"machine": machine(), "rows": rows}
        args.output.write_text(json.dumps(document, indent=1) + "\n")


def measure_case(
    m: int, k: int, n: int, *, threads: int, repeats: int, isa: str | None
) -> list[dict[str, Any]]:
    """One row per implementation for x (m, k) times a weight (n, k)."""
    rng = np.random.default_rng(0)
    codebook_size, sub_vector_len = CONFIGURATIONS[2]
    layout = Layout(
        in_features=k,
        codebook_size=codebook_size,
        sub_vector_len=sub_vector_len,
        group_order=default_group_order(k, sub_vector_len),
        assignment_layout=AssignmentLayout.FOUR_MAJOR,
    )
    x = rng.standard_normal((m, k), dtype=np.float32)
    codebook = rng.standard_normal((1, codebook_size, sub_vector_len), dtype=np.float32)
    indices = rng.integers(0, codebook_size, (n, layout.num_sub_vectors))
    weights = {
        "codebook": codebook,
        "assignments": pack_assignments(indices, layout),
        "bias": np.zeros(n, np.float32),
    }
    weight = codebook_decode(codebook, weights["assignments"], layout=layout)
    expected = x.astype(np.float64) @ weight.T.astype(np.float64)
    model = _codebook_model(layout, weights)
    runs = {
        "vq4dit-fast": _run(model, x, threads, accuracy="fast", isa=isa),
        "vq4dit-exact": _run(model, x, threads, accuracy="exact", isa=isa),
        "ort-fp32": _run(_matmul_model(weight), x, threads),
    }
    rows = []
    for impl, times in _interleaved(runs, repeats).items():
        error = np.linalg.norm(runs[impl]() - expected) / np.linalg.norm(expected)
        case = {"impl": impl, "m": m, "k": k, "n": n, "threads": threads}
        rows.append(case | times | {"rel_error": float(f"{error:.2e}")})
    return rows


def machine() -> dict[str, Any]:
    """What the figures depend on, without the machine's name."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((x.split(": ")[1] for x in lines if x.startswith("model name")), model)
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "isas": list(available_isas()),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "onnxruntime": onnxruntime.__version__,
        "system": platform.system(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--rows", type=int, default=512, help="rows of x for the token linears")
    parser.add_argument("--repeats", type=int, default=9, help="timed calls of each")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--isa", help="scalar, avx2 or avx512 instead of the best")
    return parser.parse_args()


def _codebook_model(layout: Layout, weights: dict[str, np.ndarray]) -> bytes:
    node = helper.make_node(
        CODEBOOK_GEMM.name,
        CODEBOOK_GEMM.inputs,
        ["y"],
        domain=DOMAIN,
        **attributes_from_layout(CODEBOOK_GEMM, layout),
    )
    return _model(node, weights)


def _matmul_model(weight: np.ndarray) -> bytes:
    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    return _model(node, {"weight": np.ascontiguousarray(weight.T)})


def _model(node: onnx.NodeProto, initializers: dict[str, np.ndarray]) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", "k"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", "n"])
    tensors = [numpy_helper.from_array(value, name) for name, value in initializers.items()]
    graph = helper.make_graph([node], "gemm", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def _run(
    model: bytes, x: np.ndarray, threads: int, *, accuracy: str = "", isa: str | None = None
) -> Run:
    """A function that runs the model once; `accuracy` registers our library."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Otherwise the waiting threads of one session would eat the time of the next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if accuracy:
        options.add_session_config_entry("vq4dit.accuracy", accuracy)
        if isa:
            options.add_session_config_entry("vq4dit.isa", isa)
        options.register_custom_ops_library(str(_required_library()))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})[0]


def _required_library() -> Path:
    path = ort_library_path()
    if path is None:
        raise SystemExit("the CPU library was not built: install vq4dit with a C++ compiler")
    return path


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


def _table_line(rows: list[dict[str, Any]]) -> str:
    base = next(row for row in rows if row["impl"] == "ort-fp32")
    first = rows[0]
    line = f"threads {first['threads']} M {first['m']:4d} {first['k']:5d} -> {first['n']:5d}:"
    for row in rows:
        ratios = [base[key] / row[key] for key in ("min_ms", "median_ms", "cpu_ms")]
        cores = row["cpu_ms"] / row["median_ms"]
        line += f"  {row['impl']} {row['min_ms']:.2f} ms on {cores:.1f} cores"
        if row is not base:
            line += " ({:.2f}x min, {:.2f}x median, {:.2f}x cpu)".format(*ratios)
            line += f" err {row['rel_error']:.1e}"
    return line


def _summary(rows: list[dict[str, Any]], *, m: int, threads: int) -> str:
    """Geometric mean over the token shapes of the speed-up over ONNX Runtime's float32."""
    chosen = [row for row in rows if row["m"] == m and row["threads"] == threads]
    text = f"threads {threads} M {m}, geometric mean over {len(chosen) // 3} shapes:"
    for impl in ("vq4dit-fast", "vq4dit-exact"):
        for key in ("min_ms", "median_ms", "cpu_ms"):
            base = [row[key] for row in chosen if row["impl"] == "ort-fp32"]
            ours = [row[key] for row in chosen if row["impl"] == impl]
            ratio = geometric_mean(b / o for b, o in zip(base, ours, strict=True))
            text += f"  {impl} {ratio:.2f}x ({key})"
    return text


if __name__ == "__main__":
    main()
