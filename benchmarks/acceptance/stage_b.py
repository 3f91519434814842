"""Stage B: engines of a whole model in TensorRT, through vq4dit's own commands.

Kinds of engine: `dense` (float16, the baseline), `aot` (kernels in the plan, linears gathered),
`decode` (linears decoded before TensorRT's own product), `library` (C++ plugin library), and
`inlined`, the standard-op graph of target tensorrt-rtx given to TensorRT. The size of the plans
tells whether TensorRT folds a decode back to dense weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from vq4dit.errors import Vq4ditError
from vq4dit.runtime.trt_plan import LIBRARY_VARIABLE

from .steps import Rows, Setting, Step

_TENSORRT = ("gpu", "tensorrt", "artifact", "onnx")
_KINDS = ("dense", "aot", "decode", "library")

#: A plan with more than this share of the dense plan's bytes holds dense weights.
_FOLDED_SHARE = 0.5

_LOAD_LEAN = """
import sys, tensorrt_lean as trt
runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
runtime.engine_host_code_allowed = True
engine = runtime.deserialize_cuda_engine(open(sys.argv[1], "rb").read())
assert engine is not None, "the lean runtime refused the plan"
print(engine.num_io_tensors)
"""


def stage_b_steps() -> tuple[Step, ...]:
    """In the order in which they build on each other."""
    return (
        Step(name="library/build", stage="B", needs=("headers",), measure=_build_library),
        Step(
            name="engine/cpu", stage="B", needs=("artifact", "onnx"), measure=_build_cpu,
        ),
        Step(
            name="engine/dense", stage="B", needs=("gpu", "tensorrt", "checkpoint", "onnx"),
            measure=partial(_build_tensorrt, "dense"),
        ),
        Step(
            name="engine/aot", stage="B", needs=_TENSORRT, prepare=partial(_export, "plugin"),
            prepare_needs=("artifact", "onnx"), measure=partial(_build_tensorrt, "aot"),
        ),
        Step(
            name="engine/decode", stage="B", needs=_TENSORRT,
            measure=partial(_build_tensorrt, "decode"),
        ),
        Step(
            name="engine/library", stage="B", needs=(*_TENSORRT, "headers"),
            measure=partial(_build_tensorrt, "library"),
        ),
        Step(
            name="engine/inlined", stage="B", needs=_TENSORRT, prepare=partial(_export, "inlined"),
            prepare_needs=("artifact", "onnx"), measure=_build_inlined,
        ),
        Step(name="plan-sizes", stage="B", needs=_TENSORRT, measure=_plan_sizes),
        *(
            Step(
                name=f"parity/{kind}", stage="B", needs=_TENSORRT, measure=partial(_parity, kind)
            )
            for kind in ("aot", "decode", "library")
        ),
        *(
            Step(
                name=f"speed/{kind}", stage="B", needs=_TENSORRT, measure=partial(_speed, kind)
            )
            for kind in _KINDS
        ),
        Step(name="lean-runtime", stage="B", needs=(*_TENSORRT, "lean"), measure=_load_lean),
    )  # fmt: skip


def run_vq4dit(*arguments: str | Path, library: Path | None = None) -> dict[str, Any]:
    """Run a command of vq4dit in a process of its own; its JSON.

    Args:
        arguments: the command's.
        library: C++ plugin library that engines of kind `library` need to run.
    Raises:
        Vq4ditError: it failed; the message is its last line.
    """
    program = "import sys; from vq4dit.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *map(str, arguments), "--json", "--quiet"]
    variables = {} if library is None else {LIBRARY_VARIABLE: str(library)}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    if done.stdout.strip():
        return json.loads(done.stdout)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    raise Vq4ditError(lines[-1])


def _build_library(setting: Setting) -> Rows:
    """Configure and build the plugin library; kernels for this GPU, or as CMake's default."""
    from vq4dit.plugins.tensorrt.embed import CPP_FOLDER

    from .cuda_driver import driver_problem
    from .images import nearest_sm
    from .steps import open_device

    folder = setting.work / "library"
    options = [f"-DTENSORRT_ROOT={setting.tensorrt_root}", f"-DVQ4DIT_PYTHON={sys.executable}"]
    if driver_problem() is None:
        options.append(f"-DVQ4DIT_SM={nearest_sm(open_device().compute_capability)}")
    for command in (
        ["cmake", "-S", str(CPP_FOLDER), "-B", str(folder), *options],
        ["cmake", "--build", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Vq4ditError((done.stderr or done.stdout).strip().splitlines()[-1])
    return [{"library_bytes": _library(setting).stat().st_size}]


def _build_cpu(setting: Setting) -> Rows:
    return [_build(setting, "cpu", [setting.artifact, "--target", "cpu"])]


def _build_tensorrt(kind: str, setting: Setting) -> Rows:
    largest = max(setting.batches)
    options: list[Any] = ["--target", "tensorrt", "--batch", f"1:{largest}:{largest}"]
    if kind == "dense":
        return [_build(setting, kind, [setting.checkpoint, *options, "--weights", "fp16"])]
    options += ["--linears", "decode" if kind == "decode" else "gather"]
    if kind == "library":
        options += ["--plugin-library", _library(setting)]
    return [_build(setting, kind, [setting.artifact, *options])]


def _build(setting: Setting, kind: str, arguments: list[Any]) -> dict[str, Any]:
    """Build an engine directory in the work folder; its sizes."""
    folder, start = _engine(setting, kind), time.monotonic()
    run_vq4dit("build", *arguments, "-o", folder)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    return {"kind": kind, "files": sizes, "seconds": round(time.monotonic() - start, 1)}


def _export(form: str, setting: Setting) -> str:
    """Write the ONNX model that the builder would get, and check it."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_vq4dit("export", setting.artifact, "-o", Path(folder) / "onnx", "--form", form)
    return f"ONNX model of form {form} written: {result['codebook_nodes']} codebook nodes"


def _build_inlined(setting: Setting) -> Rows:
    """The standard-op graph, built by TensorRT itself without our plugins."""
    from vq4dit.engines.plan_builder import run_job
    from vq4dit.engines.plan_job import PlanJob

    folder = setting.work / "inlined"
    if not folder.is_dir():
        run_vq4dit("export", setting.artifact, "-o", folder, "--form", "inlined")
    plan = setting.work / "inlined.plan"
    job = PlanJob(
        target="tensorrt",
        onnx_path=str(folder / "step.onnx"),
        plan_path=str(plan),
        profile=_shapes(folder / "step.onnx", max(setting.batches)),
        compute_capabilities=(),
    )
    version = run_job(job)
    return [{"kind": "inlined", "files": {plan.name: plan.stat().st_size}, "version": version}]


def _shapes(onnx_path: Path, largest: int) -> dict[str, Any]:
    """Shapes of every input with a dynamic batch."""
    import onnx

    profile = {}
    for value in onnx.load(onnx_path, load_external_data=False).graph.input:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        shapes = [tuple(batch if size == 0 else size for size in dims) for batch in (1, largest)]
        profile[value.name] = (shapes[0], shapes[1], shapes[1])
    return profile


def _plan_sizes(setting: Setting) -> Rows:
    """Plans beside each other; a folded plan is as large as the dense one."""
    plans = {kind: _engine(setting, kind) / "step.plan" for kind in _KINDS}
    plans["inlined"] = setting.work / "inlined.plan"
    sizes = {kind: path.stat().st_size for kind, path in plans.items() if path.is_file()}
    dense = sizes.get("dense")
    return [
        {
            "kind": kind,
            "plan_bytes": size,
            "is_folded": None if dense is None else size > _FOLDED_SHARE * dense,
        }
        for kind, size in sizes.items()
    ]


def _parity(kind: str, setting: Setting) -> Rows:
    """One step of the plan against ONNX Runtime on the CPU, and the weights in torch."""
    result = run_vq4dit(
        "verify", _engine(setting, kind), "--against", setting.artifact,
        library=_library_of(kind, setting),
    )  # fmt: skip
    names = ("name", "ok", "latent_out_error", "x_start_error", "limit")
    return [{"kind": kind, **{name: check[name] for name in names}} for check in result["checks"]]


def _speed(kind: str, setting: Setting) -> Rows:
    """Latency and memory at every batch size."""
    return [_profile(kind, batch, setting) for batch in setting.batches]


def _profile(kind: str, batch: int, setting: Setting) -> dict[str, Any]:
    """What the report needs of `vq4dit profile`."""
    result = run_vq4dit(
        "profile", _engine(setting, kind), "--batch", str(batch), "--batches", "", "--no-layers",
        library=_library_of(kind, setting),
    )  # fmt: skip
    (profile,) = result["engines"]
    phases = (profile.get("memory") or {}).get("phases", [])
    device = [phase["device_bytes"] for phase in phases if phase.get("device_bytes")]
    return {
        "kind": kind,
        "batch": batch,
        "latency": {name: profile["step"][name] for name in ("median_ms", "p90_ms", "min_ms")},
        "image_ms": profile["image"]["median_ms"] if profile.get("image") else None,
        "load_seconds": profile["load_seconds"],
        "device_bytes": max(device, default=None),
        "machine": result["machine"],
    }


def _load_lean(setting: Setting) -> Rows:
    """A version-compatible plan with our kernels in it, loaded by the lean runtime."""
    folder = setting.work / "engine-compatible"
    run_vq4dit(
        "build", setting.artifact, "--target", "tensorrt", "--version-compatible", "-o", folder
    )
    command = [sys.executable, "-c", _LOAD_LEAN, str(folder / "step.plan")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Vq4ditError(done.stderr.strip().splitlines()[-1])
    return [{"io_tensors": int(done.stdout)}]


def _engine(setting: Setting, kind: str) -> Path:
    return setting.work / f"engine-{kind}"


def _library_of(kind: str, setting: Setting) -> Path | None:
    return _library(setting) if kind == "library" else None


def _library(setting: Setting) -> Path:
    return setting.work / "library" / "libvq4dit_tensorrt.so"
