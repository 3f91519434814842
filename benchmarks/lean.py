"""What the runtime itself costs: importing, size, host time per step, memory over many calls.

  import    `import vq4dit` and `from vq4dit import Pipeline`, each in new processes, in turn with
            an empty Python and `import numpy`; medians of wall time above the empty one
  size      files of the package and of what the base install brings, by distribution
  overhead  of a step outside the engine's run, batch 1: the pipeline with a step that waits as for
            a GPU, per sampler (DiT-XL/2's latents, 4 x 32 x 32)
  leak      resident memory over 1,000 calls of an engine: slope of a line through the second half

    python benchmarks/lean.py --engine out/demo/engines/calibrated [--calls 1000] [--repeats 15]

Writes benchmarks/results/lean.json and the section in RESULTS.md.
"""

from __future__ import annotations

import argparse
import gc
import re
import subprocess
import sys
import time
from importlib.metadata import distribution
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from calibration_study.report import replace_section
from machine import machine

from vq4dit.json_file import write_json

_FOLDER = Path(__file__).resolve().parent

#: What the engine of `host_overhead` waits.
_ENGINE_SECONDS = 0.005
_IMPORTS = {
    "nothing": "pass",
    "numpy": "import numpy",
    "vq4dit": "import vq4dit",
    "Pipeline": "from vq4dit import Pipeline",
    "Pipeline and onnxruntime": "from vq4dit import Pipeline; import onnxruntime",
    "vq4dit --version": "import vq4dit.cli",
}


def import_times(repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of wall time above an empty interpreter, median and minimum."""
    times: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    for _ in range(repeats + 1):
        for name, code in _IMPORTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times[name].append(1000 * (time.perf_counter() - start))
    del times["nothing"][0]  # files come from the disk the first time
    empty = times.pop("nothing")
    return {
        name: {
            "median_ms": round(median(values[1:]) - median(empty), 1),
            "min_ms": round(min(values[1:]) - min(empty), 1),
        }
        for name, values in times.items()
    }


def sizes() -> dict[str, int]:
    """Bytes of every distribution of the base install, ours without tests and caches."""
    found: dict[str, int] = {}
    queue = ["vq4dit"]
    while queue:
        name = queue.pop()
        dist = distribution(name)
        if name in found:
            continue
        if name == "vq4dit":
            found[name] = _own_bytes()
        else:
            paths = [Path(str(dist.locate_file(file))) for file in dist.files or []]
            found[name] = sum(p.stat().st_size for p in paths if p.is_file())
        for requirement in dist.requires or []:
            if "extra ==" not in requirement and not re.search(r";.*(win32|Windows)", requirement):
                queue.append(re.split(r"[\s<>=!~;\[(]", requirement)[0].lower())
    return found


def _own_bytes() -> int:
    """Bytes of our package: editable installs have the folders beside the native library."""
    import importlib

    total, seen = 0, set()
    packages = ["vq4dit"] + [
        f"vq4dit.{name}"
        for name in ("plugins", "runtime", "engines", "export", "calibrate", "demo")
    ]
    for name in packages:
        for folder in importlib.import_module(name).__path__:
            if (Path(folder) / "pyproject.toml").exists():  # the checkout of an editable install
                continue
            for path in Path(folder).rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts and path not in seen:
                    seen.add(path)
                    total += path.stat().st_size
    return total


def host_overhead(steps: int = 100) -> dict[str, float]:
    """Milliseconds of a step at batch 1 outside an engine that only waits, by sampler."""
    from vq4dit.runtime.request import resolved_request
    from vq4dit.runtime.sampling import SamplingRun

    manifest = _xl_manifest()

    inside: list[float] = []

    def waits(inputs: Any) -> Any:
        begin = time.perf_counter()
        time.sleep(_ENGINE_SECONDS)
        inside.append(time.perf_counter() - begin)
        return inputs.latent, inputs.history

    found = {}
    for sampler in ("ddim", "dpm-solver++", "ddpm"):
        times = []
        for repeat in range(7):
            request = resolved_request(manifest, 0, steps=steps, sampler=sampler, seed=repeat)
            run = SamplingRun(
                request=request, latent_shape=manifest.latent_shape, batch_min=1, num_batches=1,
                run_step=waits, decode=lambda latents: latents, noise=None, callback=None,
                cancel=None,
            )  # fmt: skip
            inside.clear()
            start = time.perf_counter()
            run.sample(0, slice(0, 1), None)
            times.append(1000 * (time.perf_counter() - start - sum(inside)) / steps)
        found[sampler] = round(median(times), 4)
    return found


def _xl_manifest() -> Any:
    from vq4dit.engines.manifest import Manifest, TrainingSchedule
    from vq4dit.model_config import PRESETS

    shape = (4, 32, 32)
    return Manifest(
        target="cpu", form="function", model=PRESETS["DiT-XL/2"], label_names=(),
        schedule=TrainingSchedule(), latent_shape=shape, image_shape=shape, batch_min=1,
        batch_max=None, compute_dtype="float32", label_dtype="int64", cfg=True, cfg_channels=3,
        latent_scaling_factor=0.18215, files={}, bits_per_weight={}, source_sha256="",
        tool_versions={},
    )  # fmt: skip


def leak(engine: Path, calls: int) -> dict[str, Any]:
    """Resident bytes after every tenth call with another request each time."""
    from vq4dit import Pipeline

    rss, numbers = [], []
    with Pipeline(engine, threads=1) as pipeline:
        num_classes = pipeline.manifest.model.num_classes
        for call in range(calls):
            pipeline(
                call % num_classes, steps=1 + call % 3, seed=call, num_images=1 + call % 4,
                sampler=("ddim", "ddpm", "dpm-solver++")[call % 3],
                callback=lambda report: None, batch_size=1 + call % 2,
            )  # fmt: skip
            if call % 10 == 9:
                gc.collect()
                rss.append(_resident_bytes())
                numbers.append(call + 1)
    half = len(rss) // 2
    slope = float(np.polyfit(numbers[half:], rss[half:], 1)[0])
    return {
        "calls": calls,
        "slope_bytes_per_call": round(slope, 1),
        "rss_bytes": {str(numbers[i]): rss[i] for i in (0, half, len(rss) - 1)},
    }


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def render(document: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    imports, size = document["import"], document["size"]
    memory, overhead = document["leak"], document["overhead_ms_per_step"]
    total, own = sum(size.values()), size["vq4dit"]
    lines = [
        "## What the runtime itself costs (`lean.py`)",
        "",
        "Command: `python benchmarks/lean.py --engine out/demo/engines/calibrated`. Machine: "
        f"{document['machine']['processor']}.",
        "",
        "| | | goal |",
        "|---|---|---|",
        *(
            f"| import of {name}, above an empty Python | {times['median_ms']:.0f} ms | "
            f"{'300 ms' if name in ('vq4dit', 'Pipeline') else ''} |"
            for name, times in imports.items()
        ),
        f"| installed size, base install | {total / 2**20:.0f} MiB, of which vq4dit "
        f"{own / 2**20:.1f} MiB, "
        + ", ".join(
            f"{name} {size[name] / 2**20:.0f}"
            for name in sorted(size, key=size.__getitem__, reverse=True)
            if name != "vq4dit" and size[name] >= 2**20
        )
        + " | |",
        *(
            f"| host time per step, batch 1, {name} | {value:.3f} ms | 0.5 ms |"
            for name, value in overhead.items()
        ),
        f"| resident memory, {memory['calls']} calls, slope over the second half | "
        f"{memory['slope_bytes_per_call']:.0f} bytes per call | 0 |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure all four, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=_FOLDER / "results" / "lean.json")
    parser.add_argument("--markdown", type=Path, default=_FOLDER / "RESULTS.md")
    args = parser.parse_args()
    document = {
        "machine": machine(("numpy", "onnxruntime")),
        "import": import_times(args.repeats),
        "size": sizes(),
        "overhead_ms_per_step": host_overhead(),
        "leak": leak(args.engine, args.calls),
    }
    write_json(args.output, document)
    replace_section(args.markdown, "lean", render(document))


if __name__ == "__main__":
    main()
