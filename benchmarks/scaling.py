"""Does the cost of a step stay linear: in batch, depth, tokens, and the weights of a layer?

2-bit engines of random weights, one thread, guidance. From a base model one size at a time is
changed; for each sweep the slope of log time over log work is fitted, 1 where cost is linear. Work:
multiply-adds of all linears and of attention (whose part grows with the square of the tokens).

    python benchmarks/scaling.py [--repeats 7] [--accuracy fast]

Writes benchmarks/results/scaling.json and the section in RESULTS.md. Times are processor time, so
that other work on the machine does not enter; wall time is recorded beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from calibration_study.report import replace_section
from machine import machine
from random_weights import RandomWeights

from vq4dit.engines.build import build_engine
from vq4dit.json_file import write_json
from vq4dit.model_config import ModelConfig
from vq4dit.runtime.open_session import native_library
from vq4dit.runtime.ort_session import OrtStepSession
from vq4dit.runtime.session import StepInputs

_FOLDER = Path(__file__).resolve().parent
BASE = ModelConfig(
    input_size=32,
    patch_size=2,
    in_channels=4,
    hidden_size=768,
    depth=4,
    num_heads=12,
    num_classes=1000,
)
BATCH = 1
BITS = 2


def points() -> list[dict[str, Any]]:
    """Sweep name, model and batch of every measurement."""
    found = [{"sweep": "batch", "config": BASE, "batch": n} for n in (1, 2, 4, 8, 16)]
    for depth in (2, 4, 8, 16):
        found.append({"sweep": "depth", "config": replace(BASE, depth=depth), "batch": BATCH})
    for hidden in (384, 768, 1152, 1536):
        config = replace(BASE, hidden_size=hidden, num_heads=hidden // 64)
        found.append({"sweep": "hidden size", "config": config, "batch": BATCH})
    for size in (16, 32, 64):
        found.append({"sweep": "tokens", "config": replace(BASE, input_size=size), "batch": BATCH})
    return found


def work(config: ModelConfig, batch: int) -> int:
    """Multiply-adds of one step with guidance."""
    tokens, rows = (config.input_size // config.patch_size) ** 2, 2 * batch
    linears = 0
    for name, (outputs, inputs) in config.block_linear_shapes().items():
        linears += (1 if "adaLN" in name else tokens) * outputs * inputs
    attention = 2 * config.depth * tokens**2 * config.hidden_size
    return rows * (linears + attention)


def measure(
    config: ModelConfig, batch: int, *, repeats: int, accuracy: str
) -> dict[str, float | int]:
    """Median and minimum of a step's processor time, one thread."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Path(folder) / "engine"
        manifest = build_engine(RandomWeights(config=config, bits=BITS), engine, target="cpu")
        session = OrtStepSession(
            engine / manifest.files["step"].name,
            library=native_library(manifest),
            accuracy=accuracy,
            threads=1,
        )
        inputs = _inputs(config, batch)
        session.run(inputs)
        cpu, wall = [], []
        for _ in range(repeats):
            start, cpu_start = time.perf_counter(), time.process_time()
            session.run(inputs)
            cpu.append(1000 * (time.process_time() - cpu_start))
            wall.append(1000 * (time.perf_counter() - start))
        session.close()
    return {
        "cpu_median_ms": round(median(cpu), 2),
        "cpu_min_ms": round(min(cpu), 2),
        "wall_min_ms": round(min(wall), 2),
    }


def _inputs(config: ModelConfig, batch: int) -> StepInputs:
    rng = np.random.default_rng(0)
    shape = (batch, config.in_channels, config.input_size, config.input_size)
    latent, noise, history = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
    return StepInputs(
        latent=latent,
        timestep=np.full(batch, 500, np.float32),
        label=np.zeros(batch, np.int64),
        cfg_scale=np.full(batch, 4, np.float32),
        coefficients=np.tile(np.array([1, 0, 0, 0, 0, 0, 1, 0], np.float32), (batch, 1)),
        noise=noise,
        history=history,
    )


def slopes(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Sweep -> slope of log(minimum time) over log(work), least squares."""
    found = {}
    for sweep in dict.fromkeys(row["sweep"] for row in rows):
        chosen = [row for row in rows if row["sweep"] == sweep]
        x = np.log([row["multiply_adds"] for row in chosen])
        y = np.log([row["cpu_min_ms"] for row in chosen])
        found[sweep] = round(float(np.polyfit(x, y, 1)[0]), 3)
    return found


def render(document: dict[str, Any]) -> str:
    """Markdown of the results."""
    about = document["machine"]
    lines = [
        "## Scaling of a step on a CPU (`scaling.py`)",
        "",
        "2-bit engines of random weights, guidance, one thread, fast mode; from hidden size 768,",
        "depth 4, 256 tokens, batch 1 one size is changed at a time. Processor time, minimum and",
        "median; slope: of log time over log multiply-adds (linears and attention), 1 is linear.",
        "",
        f"Command: `python benchmarks/scaling.py`. Machine: {about['processor']}.",
        "",
        "| sweep | hidden | depth | tokens | batch | G multiply-adds | min ms | median ms | "
        "G/s | slope |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    last = ""
    for row in document["rows"]:
        first = row["sweep"] != last
        last = row["sweep"]
        giga = row["multiply_adds"] / 1e9
        lines.append(
            f"| {last if first else ''} | {row['hidden_size']} | {row['depth']} | {row['tokens']} "
            f"| {row['batch']} | {giga:.2f} | {row['cpu_min_ms']:.0f} | "
            f"{row['cpu_median_ms']:.0f} | {1000 * giga / row['cpu_min_ms']:.0f} | "
            f"{document['slopes'][last] if first else ''} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure all points, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--accuracy", default="fast", help="fast, exact or int8")
    parser.add_argument("--output", type=Path, default=_FOLDER / "results" / "scaling.json")
    parser.add_argument("--markdown", type=Path, default=_FOLDER / "RESULTS.md")
    args = parser.parse_args()
    rows = []
    for point in points():
        config, batch = point["config"], point["batch"]
        row = {
            "sweep": point["sweep"],
            "hidden_size": config.hidden_size,
            "depth": config.depth,
            "tokens": (config.input_size // config.patch_size) ** 2,
            "batch": batch,
            "multiply_adds": work(config, batch),
            **measure(config, batch, repeats=args.repeats, accuracy=args.accuracy),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    document = {"machine": machine(("onnxruntime",)), "rows": rows, "slopes": slopes(rows)}
    write_json(args.output, document)
    replace_section(args.markdown, "scaling", render(document))


if __name__ == "__main__":
    main()
