"""How far is the fitted CPU model from measurement, on sizes that it was not fitted to?

The model of `vq4dit.prediction.cpu` is fitted to products of six shapes and to three small random
DiTs, then held against products of DiT-XL/2's shapes, the demonstration model's engines and a block
as wide as DiT-XL/2's. Fit and test share no shape.
`python benchmarks/cost_model_cpu.py --engine ENGINE_DIR.. --output FILE` writes {"machine",
"model": fitted costs, "classes": [{"test", "implementation", "batch", "class", "measured_us",
"predicted_us", "error"}], "gemm": [{"implementation", "m", "k", "n", ...}]} and the section
`cost-model-cpu` of RESULTS.md. `--keep FILE` keeps the measurements too, `--measured FILE` fits and
tests kept ones again. One thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from calibration_study.report import replace_section
from cost_model_cpu_report import render
from cpu_gemm import ADALN_SHAPE, TOKEN_SHAPES, measure_case
from fma_peak import fma_peak_gflops
from machine import machine
from random_weights import RandomWeights

from vq4dit.engines.exports import export_step
from vq4dit.engines.manifest import load_manifest
from vq4dit.engines.targets import TARGETS
from vq4dit.json_file import write_json
from vq4dit.model_config import ModelConfig
from vq4dit.plugins import ort_library_path
from vq4dit.prediction.attribution import seconds_by_op
from vq4dit.prediction.cpu import (
    CpuMeasurement,
    CpuModel,
    cold_share,
    fit_cpu_model,
    weight_bytes,
)
from vq4dit.prediction.step_ops import StepOp, step_ops
from vq4dit.runtime.ort_session import OrtStepSession
from vq4dit.runtime.profiling.event_cost import EventCost, measure_event_cost
from vq4dit.runtime.profiling.ort_nodes import profile_nodes
from vq4dit.runtime.session import StepInputs

FIT_SHAPES = ((256, 1024), (384, 1536), (768, 768), (768, 3072), (1536, 384), (2048, 512))
LARGE_FIT_SHAPES = ((2048, 3072), (3072, 2048), (2560, 5120))  # of few rows only: cold weights
TEST_SHAPES = (*TOKEN_SHAPES, ADALN_SHAPE)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TEST_ROWS = (1, 2, 8, 64, 256, 512)
RESULTS = Path(__file__).with_name("RESULTS.md")

#: Share of a processor below which a measurement is worthless, and how often it is tried again.
_SHARE = 0.95
_ATTEMPTS = 12

_IMPLEMENTATION = {"ort-fp32": "fp32", "vq4dit-fast": "fast", "vq4dit-exact": "exact"}


def _dit(hidden: int, heads: int, depth: int, latent: int) -> ModelConfig:
    return ModelConfig(
        input_size=latent, patch_size=2, in_channels=4, hidden_size=hidden, depth=depth,
        num_heads=heads, num_classes=10,
    )  # fmt: skip


#: Models to fit to: (configuration, batches).
FIT_MODELS = (
    (_dit(128, 2, 3, 8), (1, 6)),
    (_dit(384, 6, 2, 16), (1, 2)),
    (_dit(512, 8, 2, 8), (2, 8)),
    (_dit(768, 12, 1, 32), (1,)),
)
#: A block of DiT-XL/2: held out.
WIDE = _dit(1152, 16, 1, 32)
ENGINE_BATCHES = (1, 4, 16)


def main() -> None:
    """Measure, fit, test, write."""
    args = _arguments()
    if args.measured:
        measured = json.loads(args.measured.read_text(encoding="utf-8"))
    else:
        measured = measure(args.engine)
        if args.keep:
            write_json(args.keep, measured)
    document = fit_and_test(measured)
    write_json(args.output, document)
    text = render(document)
    print(text)
    replace_section(RESULTS, "cost-model-cpu", text)


def gemm_measurements(
    shapes: tuple[tuple[int, int], ...], rows: tuple[int, ...]
) -> Iterator[CpuMeasurement]:
    """Single products by ONNX Runtime in float32 and by our library in both accuracies."""
    for k, n in shapes:
        for m in rows:
            for row in _undisturbed_case(m, k, n):
                implementation = _IMPLEMENTATION.get(row["impl"])
                if implementation is None:
                    continue
                activation = "bare" if implementation == "fp32" else "none"  # it adds no bias
                op = StepOp(
                    name=f"{k} -> {n}", part="MLP", kind="linear", m=m, n=n, k=k,
                    activation=activation, is_quantized=True,
                )  # fmt: skip
                yield CpuMeasurement(
                    op=op, implementation=implementation, seconds=row["min_ms"] / 1e3,
                    cold_share=_cold_share([op], implementation),
                )  # fmt: skip


def engine_measurements(
    path: Path, config: ModelConfig, batch: int, implementation: str, cost: EventCost, *, cfg: bool
) -> list[CpuMeasurement]:
    """Every operation of one step, by ONNX Runtime's profiler."""
    inputs = _inputs(config, batch)

    def opened(prefix: Path | None) -> OrtStepSession:
        return OrtStepSession(
            path, library=ort_library_path(), threads=1, profile_prefix=prefix,
            accuracy="exact" if implementation == "exact" else "fast",
        )  # fmt: skip

    plain = opened(None)
    for attempt in range(_ATTEMPTS):
        start, start_cpu = time.perf_counter(), time.process_time()
        profile = profile_nodes(
            opened,
            lambda session: session.run(inputs),
            lambda: plain.run(inputs),
            repeats=40,
            budget_seconds=4.0,
            event_cost=cost,
        )
        share = (time.process_time() - start_cpu) / (time.perf_counter() - start)
        if _is_undisturbed(share, attempt):
            break
    ops = step_ops(config, batch, cfg=cfg)
    seconds = seconds_by_op(ops, profile.nodes)
    cold = _cold_share(ops, implementation)
    return [
        CpuMeasurement(
            op=op, implementation=implementation, seconds=max(seconds[op.name], 1e-7),
            cold_share=cold,
        )
        for op in ops
    ]  # fmt: skip


def last_level_cache_bytes() -> int:
    """Of this machine by Linux; 32 MiB where it does not tell."""
    files = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    return max(
        (int(file.read_text().strip().rstrip("K")) << 10 for file in files), default=32 << 20
    )


def _cold_share(ops: list[StepOp], implementation: str) -> float:
    return cold_share(weight_bytes(ops, implementation), last_level_cache_bytes())


def _undisturbed_case(m: int, k: int, n: int) -> list[dict[str, Any]]:
    """One shape by all implementations, again where other programs held the processor."""
    for attempt in range(_ATTEMPTS):
        rows = measure_case(m, k, n, threads=1, repeats=5, isa=None, only=["ort-fp32"])
        if _is_undisturbed(min(row["cpu_ms"] / row["median_ms"] for row in rows), attempt):
            break
    return rows


def _is_undisturbed(share: float, attempt: int) -> bool:
    """Whether this process had the processor; waits a little where it had not."""
    if share >= _SHARE:
        return True
    print(f"had {100 * share:.0f} % of a processor, attempt {attempt + 1}", flush=True)
    time.sleep(5)
    return False


def measure(engines: list[Path]) -> dict[str, Any]:
    """All measurements: those to fit to, and the held-out ones."""
    cost = measure_event_cost()
    fit = list(gemm_measurements(FIT_SHAPES, ROWS))
    fit += gemm_measurements(LARGE_FIT_SHAPES, ROWS[:5])
    tests = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (config, batches) in enumerate(FIT_MODELS):
            for batch in batches:
                fit += _random_engine(Path(folder, str(number)), config, batch, cost)
        wide = _random_engine(Path(folder, "wide"), WIDE, 1, cost)
        tests.append({"test": "block as wide as DiT-XL/2", "batch": 1, "rows": _raw(wide)})
        for directory in engines:
            for batch in ENGINE_BATCHES:
                found = _built_engine(directory, batch, cost)
                tests.append({"test": directory.name, "batch": batch, "rows": _raw(found)})
    return {
        "machine": machine(("onnxruntime",)) | {"fma_peak_gflops_per_core": fma_peak_gflops()},
        "fit": _raw(fit),
        "tests": tests,
        "gemm": _raw(gemm_measurements(TEST_SHAPES, TEST_ROWS)),
    }


def fit_and_test(measured: dict[str, Any]) -> dict[str, Any]:
    """The fitted model, and its errors on what it was not fitted to."""
    fit = _from_raw(measured["fit"])
    model = fit_cpu_model(fit, f"{measured['machine']['processor']}, one thread")
    classes, operations = [], []
    for test in measured["tests"]:
        rows = _from_raw(test["rows"])
        classes += _class_rows(test["test"], test["batch"], rows, model)
        operations += [
            {"test": test["test"], "batch": test["batch"]} | _op_row(row, model)
            for row in rows
            if not row.op.name.startswith("blocks.") or row.op.name.startswith("blocks.0.")
        ]
    return {
        "machine": measured["machine"],
        "model": model.to_dict(),
        "fit": [_op_row(row, model) for row in fit if row.op.kind == "linear"],
        "classes": classes,
        "operations": operations,
        "gemm": [_op_row(row, model) for row in _from_raw(measured["gemm"])],
    }


def _raw(rows: Iterable[CpuMeasurement]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def _from_raw(rows: list[dict[str, Any]]) -> list[CpuMeasurement]:
    return [CpuMeasurement(**(row | {"op": StepOp(**row["op"])})) for row in rows]


def _random_engine(
    folder: Path, config: ModelConfig, batch: int, cost: EventCost
) -> list[CpuMeasurement]:
    """All implementations of a random model of this size."""
    found = []
    for implementation, bits in (("fp32", None), ("fast", 2), ("exact", 2)):
        step = export_step(
            RandomWeights(config=config, bits=bits),
            folder / implementation,
            TARGETS["cpu"],
            weights="fp32",
            cfg=True,
            cfg_channels=None,
        )
        found += engine_measurements(step.path, config, batch, implementation, cost, cfg=True)
    return found


def _built_engine(directory: Path, batch: int, cost: EventCost) -> list[CpuMeasurement]:
    """An engine directory: float32 where its linears are dense, else both accuracies."""
    manifest = load_manifest(directory)
    path = directory / manifest.files["step"].name
    is_dense = not manifest.bits_per_weight or min(manifest.bits_per_weight.values()) >= 16
    found = []
    for implementation in ("fp32",) if is_dense else ("fast", "exact"):
        found += engine_measurements(
            path, manifest.model, batch, implementation, cost, cfg=manifest.cfg
        )
    return found


def _class_rows(
    test: str, batch: int, measured: list[CpuMeasurement], model: CpuModel
) -> list[dict[str, Any]]:
    """Sums over the operations of each part, and of the whole step."""
    sums: dict[tuple[str, str], list[float]] = {}
    for row in measured:
        predicted = model.seconds(row.op, row.implementation, cold_share=row.cold_share)
        for name in (row.op.part, "whole step"):
            total = sums.setdefault((row.implementation, name), [0.0, 0.0])
            total[0] += 1e6 * row.seconds
            total[1] += 1e6 * predicted
    return [
        {
            "test": test,
            "implementation": implementation,
            "batch": batch,
            "class": name,
            "measured_us": round(seen, 2),
            "predicted_us": round(said, 2),
            "error": round(said / seen - 1, 4),
        }
        for (implementation, name), (seen, said) in sums.items()
    ]


def _op_row(row: CpuMeasurement, model: CpuModel) -> dict[str, Any]:
    predicted = model.seconds(row.op, row.implementation, cold_share=row.cold_share)
    return {
        "op": row.op.name,
        "kind": row.op.kind,
        "implementation": row.implementation,
        "m": row.op.m,
        "k": row.op.k,
        "n": row.op.n,
        "measured_us": round(1e6 * row.seconds, 2),
        "predicted_us": round(1e6 * predicted, 2),
        "error": round(predicted / row.seconds - 1, 4),
    }


def _inputs(config: ModelConfig, batch: int) -> StepInputs:
    rng = np.random.default_rng(0)
    shape = (batch, config.in_channels, config.input_size, config.input_size)
    latent, noise, history = (rng.standard_normal(shape, np.float32) for _ in range(3))
    return StepInputs(
        latent=latent,
        timestep=np.full(batch, 500, np.float32),
        label=np.arange(batch, dtype=np.int64) % config.num_classes,
        cfg_scale=np.full(batch, 2, np.float32),
        coefficients=np.full((batch, 8), 0.5, np.float32),
        noise=noise,
        history=history,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, nargs="+", default=[], help="held-out engines")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "cost_model_cpu.json"
    )
    parser.add_argument("--keep", type=Path, help="file for the measurements")
    parser.add_argument("--measured", type=Path, help="kept measurements instead of new ones")
    return parser.parse_args()


if __name__ == "__main__":
    main()
