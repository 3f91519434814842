"""What plans of TensorRT-RTX weigh: the plan, the text in it, and what an engine directory stores.

    python benchmarks/plan_storage.py ARTIFACT=ENGINE_DIR [..] [--results benchmarks/RESULTS.md]

ENGINE_DIR is what `vq4dit build ARTIFACT --target tensorrt-rtx -o ENGINE_DIR` made.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from calibration_study.report import replace_section
from machine import machine

from vq4dit.calibrate.source import open_weights
from vq4dit.engines.exports import export_step
from vq4dit.engines.manifest import load_manifest, verify_files
from vq4dit.engines.targets import TARGETS
from vq4dit.json_file import write_json
from vq4dit.packed_plan import read_packed_plan
from vq4dit.weight_source import WeightSource

ROUNDS = 9

#: Source text of one kernel: a long run of printable characters that begins as all of them do.
_KERNEL = re.compile(rb"#undef __HAS[\t\n -~]{50000,}")


def main() -> None:
    """Measure, write the data, and replace the section of RESULTS.md where that is asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pairs", nargs="+", metavar="ARTIFACT=ENGINE_DIR")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/plan_storage.json"))
    parser.add_argument("--results", type=Path, help="RESULTS.md, whose section is replaced")
    args = parser.parse_args()
    pairs = [tuple(map(Path, pair.split("=", 1))) for pair in args.pairs]
    document = {
        "machine": machine(("tensorrt-rtx-cu13",)),
        "rows": [measure(artifact, engine) for artifact, engine in pairs],
    }
    write_json(args.output, document)
    if args.results is not None:
        replace_section(args.results, "plan-storage", render(document))
    print(json.dumps(document["rows"], indent=1))


def measure(artifact: Path, engine: Path) -> dict[str, Any]:
    """Bytes of one step plan in every form, and the seconds to read it."""
    source, manifest = open_weights(artifact), load_manifest(engine)
    verify_files(engine, manifest)
    entry = manifest.files["step"]
    if entry.unpacked_bytes is None:
        raise SystemExit(f"{engine}: its plan is stored as it is; nothing to compare")
    stored, length = engine / entry.name, entry.unpacked_bytes
    plan = bytes(read_packed_plan(stored, length))
    kernels = _KERNEL.findall(plan)
    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[manifest.target]
        export_step(source, Path(folder), target, weights="fp16", cfg=manifest.cfg, cfg_channels=3)
        onnx_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
        (Path(folder) / "step.plan").write_bytes(plan)
        raw_seconds = _median_seconds((Path(folder) / "step.plan").read_bytes)
    return {
        "engine": f"hidden size {source.config.hidden_size}, {source.config.depth} blocks",
        "weight_bytes": weight_bytes(source),
        "onnx_bytes": onnx_bytes,
        "plan_bytes": len(plan),
        "num_kernels": len(kernels),
        "num_different_kernels": len(set(kernels)),
        "kernel_text_bytes": sum(map(len, kernels)),
        "stored_bytes": entry.bytes,
        "read_plan_ms": raw_seconds * 1e3,
        "read_stored_ms": _median_seconds(lambda: read_packed_plan(stored, length)) * 1e3,
    }


def weight_bytes(source: WeightSource) -> int:
    """Packed assignments, codebooks, and every other tensor in float16."""
    total = 0
    for name, shape in source.config.tensor_shapes().items():
        layer_name, _, kind = name.rpartition(".")
        is_linear = layer_name in source.config.block_linear_shapes() and kind == "weight"
        layer = source.quantized_layer(layer_name) if is_linear else None
        if layer is None:
            total += 2 * int(np.prod(shape))
        else:
            total += layer.assignments.nbytes + layer.codebook.nbytes
    return total


def _median_seconds(read: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def render(document: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    m = document["machine"]
    versions = ", ".join(f"{name} {text}" for name, text in m["versions"].items())
    lines = []
    for row in document["rows"]:
        weights, stored = row["weight_bytes"], row["stored_bytes"]
        lines.append(
            f"| {row['engine']} | {weights:,} | {row['onnx_bytes']:,} | {row['plan_bytes']:,} "
            f"({row['plan_bytes'] / weights:.3f}) | {row['kernel_text_bytes']:,} in "
            f"{row['num_kernels']} kernels, {row['num_different_kernels']} different | "
            f"**{stored:,}** ({stored / weights:.3f}, +{(stored - weights) / 1e6:.2f} MB) | "
            f"{row['read_plan_ms']:.0f} -> {row['read_stored_ms']:.0f} |"
        )
    return f"""\
## Plans of TensorRT-RTX on the disk (`plan_storage.py`)

**Question.** How much larger than its weights is a plan with packed assignments?

**Goal.** Weights (packed, with codebooks, and the other tensors in float16) plus 1.5 MB for the
demo model, times 1.05 for DiT-XL/2. The plans themselves miss it, since TensorRT-RTX writes the
source text of every fused kernel into them; what an engine directory stores (`step.plan.zip`: text
deflated, all else as it is) reaches it.

```
vq4dit build X.vq.safetensors --target tensorrt-rtx -o engine
python benchmarks/plan_storage.py X.vq.safetensors=engine
```

**Machine.** {m["processor"]}, {m["processors"]} processors; {versions}. No GPU: the plans were
built, not run. Reading is of a warm file, median of {ROUNDS}, without the check of its hash.

| DiT, 2 bits | weights | ONNX model | plan (times weights) | text in it | **stored** | ms to read |
|---|---|---|---|---|---|---|
{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()
