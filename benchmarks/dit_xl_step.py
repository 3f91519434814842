"""How fast is a whole DiT-XL/2 256x256 step with guidance on the CPU, and in how much memory?

Real shapes, batch 1 (two rows inside, 512 tokens), the same model for everybody:

  vq4dit-fast, -exact, -int8  2 bits, our engine
  ort-fp32                    the dense engine on ONNX Runtime: the baseline
  ort-int8-dynamic            the dense model through onnxruntime's quantize_dynamic (per channel)
  openvino-fp32, -int8        the dense model in OpenVINO; int8 weights by NNCF's compress_weights,
                              with OpenVINO's own dynamic quantization of the activations

Every implementation runs in a process of its own, which makes its peak memory its own; the
processes take their steps in turn, one at a time, so that all see the same load on the machine.
`load_seconds` is from the start of loading (for ours with the check of all hashes) to the end of
the first step, without Python's imports. Peak memory is that of the sampling loop.

    python benchmarks/dit_xl_step.py --work FOLDER [--threads 1 2] [--repeats 9] [--decode]

FOLDER holds the synthetic checkpoint (made if it is not there; 2.7 GB, and as much for each dense
form). `--decode` measures the decode phase as well: low_memory, a decoder of the usual size.
Writes benchmarks/results/dit_xl_step.json and the section in RESULTS.md. The weights are random:
the figures are about time and memory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from calibration_study.report import replace_section
from machine import machine
from xl_step.child import Child
from xl_step.implementations import IMPLEMENTATIONS, REFERENCES
from xl_step.models import make_models
from xl_step.report import render

from vq4dit.json_file import write_json

_FOLDER = Path(__file__).resolve().parent
_PACKAGES = ("numpy", "onnxruntime", "openvino", "nncf")


def main() -> None:
    """Make the models, measure, write the results."""
    args = _arguments()
    models = make_models(args.work, args.impl, decode=args.decode)
    rows: list[dict[str, Any]] = []
    for threads in args.threads:
        rows += measure(args.impl, models, threads=threads, repeats=args.repeats)
    document = {"machine": machine(_PACKAGES), "rows": rows}
    if args.decode:
        document["phases"] = Child.phases(models["decode"], threads=max(args.threads))
    write_json(args.output, document)
    replace_section(args.markdown, "dit-xl-step", render(document))


def measure(
    names: list[str], models: dict[str, Path], *, threads: int, repeats: int
) -> list[dict[str, Any]]:
    """Steps of all implementations in turn; one row for each."""
    children: dict[str, Child] = {}
    rows = []
    try:
        for name in names:
            children[name] = Child.start(name, models[name], threads=threads)
        times: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for repeat in range(1 + repeats):
            for name, child in children.items():
                step = child.ask("step")
                if repeat:  # the first round warms up
                    times[name].append(step)
        for name, child in children.items():
            row = {
                "impl": name,
                "threads": threads,
                "median_ms": round(median(t["ms"] for t in times[name]), 2),
                "min_ms": round(min(t["ms"] for t in times[name]), 2),
                "cpu_ms": round(median(t["cpu_ms"] for t in times[name]), 2),
                **child.ask("memory"),
                "load_seconds": child.load_seconds,
                "rel_error": _relative_error(name, children),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    finally:
        for child in children.values():
            child.stop()
    return rows


def _relative_error(name: str, children: dict[str, Child]) -> float | None:
    """Against the implementation with the same weights and exact arithmetic; None if not run."""
    reference = children.get(REFERENCES.get(name, ""))
    if reference is None:
        return None
    expected = np.array(reference.output)
    return float(np.abs(np.array(children[name].output) - expected).max() / np.abs(expected).max())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder with 12 GB of room")
    parser.add_argument("--impl", nargs="+", default=list(IMPLEMENTATIONS), help="which to run")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--decode", action="store_true", help="measure the decode phase, too")
    parser.add_argument(
        "--output", type=Path, default=_FOLDER / "results" / "dit_xl_step.json", help="results"
    )
    parser.add_argument(
        "--markdown", type=Path, default=_FOLDER / "RESULTS.md", help="where the table goes"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
