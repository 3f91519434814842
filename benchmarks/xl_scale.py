"""Calibration at DiT-XL/2 scale on a CPU: time and peak memory of K-Means and of block-wise steps.

Makes a synthetic checkpoint in the real key layout (heavy-tailed weights: Student-t with 5 degrees
of freedom, scaled to 1/sqrt(inputs)), 2.7 GB, and measures, each in a process of its own:

  kmeans  K-Means of all 140 linears (669 M weights), artifact written
  steps   the default recipe cut to a few open-ratio steps in every one of the 28 blocks

    python benchmarks/xl_scale.py --work FOLDER [--rows kmeans,steps] [--threads 2]

Writes benchmarks/results/xl_scale.json. The numbers are about time and memory: with random weights
no picture comes out of it.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from machine import machine

from vq4dit.atomic_file import atomic_path
from vq4dit.json_file import write_json
from vq4dit.model_config import PRESETS

RESULTS = Path(__file__).parent / "results" / "xl_scale.json"
MODEL = "DiT-XL/2"
SOFT_STEPS = 2
ROWS = ("kmeans", "steps")


def write_checkpoint(path: Path) -> None:
    """Write the synthetic checkpoint tensor by tensor, so that it is never whole in memory."""
    shapes = PRESETS[MODEL].tensor_shapes()
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            scale = 1 / np.sqrt(shape[-1] if len(shape) > 1 else 100)
            values = rng.standard_t(5, size=shape).astype(np.float32) * np.float32(scale * 0.77)
            file.write(values.tobytes())


def measure(row: str, checkpoint: Path, output: Path, threads: int) -> dict[str, object]:
    """Run one row in this process; called in a child."""
    import torch

    from vq4dit.calibrate.recipe import RECIPES
    from vq4dit.calibrate.run import calibrate
    from vq4dit.stage_bar import StageBar

    torch.set_num_threads(threads)
    recipe = RECIPES["kmeans"]
    if row == "steps":
        recipe = replace(
            RECIPES["vq4dit"],
            soft_steps=SOFT_STEPS,
            batch_size=2,
            distill_steps=0,
            num_trajectories=2,
            trajectory_steps=2,
            pool_tokens=2048,
        )
    start = time.perf_counter()
    with StageBar() as bar:
        summary = calibrate(checkpoint, output, recipe=recipe, progress=bar)
    return {
        "row": row,
        "threads": threads,
        "seconds": round(time.perf_counter() - start, 1),
        "stages": dict(summary.seconds),
        "peak_rss_bytes": summary.peak_rss_bytes,
        "artifact_bytes": output.stat().st_size,
        "soft_steps_per_block": recipe.soft_steps if row == "steps" else 0,
        "mean_weight_error": float(np.mean(list(summary.weight_error.values()))),
    }


def main() -> None:
    """Make the checkpoint if it is not there, run the rows, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder with 4 GB of room")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    checkpoint = args.work / "synthetic-xl.safetensors"
    if args.child:
        output = args.work / f"{args.child}.vq.safetensors"
        print(json.dumps(measure(args.child, checkpoint, output, args.threads)))
        return
    if not checkpoint.exists():
        write_checkpoint(checkpoint)
    old = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = {row["row"]: row for row in old}
    for name in args.rows.split(","):
        command = [sys.executable, __file__, "--work", str(args.work), "--child", name]
        command += ["--threads", str(args.threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows[name] = json.loads(done.stdout)
        print(json.dumps(rows[name], indent=1))
        write_json(RESULTS, {"machine": machine(("torch",)), "rows": list(rows.values())})


if __name__ == "__main__":
    main()
