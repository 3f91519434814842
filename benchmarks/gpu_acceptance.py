"""Do the GPU kernels and the TensorRT engines work, and how fast are they? For the day of a GPU.

Stage A  every kernel alone, at DiT-XL/2's shapes: error against NumPy, time beside cuBLAS.
         Needs a driver and NumPy, libcublas for the baseline, and machine code prepared
         elsewhere (or NVRTC). Writes rows {gpu, kernel, m, n, k, dtype, microseconds} that
         calibrate the cost model.
Stage B  engines of a whole model in TensorRT: plan sizes, parity, latency, memory, lean runtime.

    python benchmarks/gpu_acceptance.py prepare --sm 80 90 --images FOLDER    # any machine
    python benchmarks/gpu_acceptance.py run --images FOLDER --minutes 9       # again until done
    python benchmarks/gpu_acceptance.py run --stage B --artifact X.vq.safetensors \\
        --checkpoint X.safetensors --tensorrt-root /usr --work FOLDER
    python benchmarks/gpu_acceptance.py run --dry-run                         # no GPU needed

Results go to benchmarks/results/gpu_acceptance.json after every step; a run goes on where an
earlier one stopped, and tries last what failed before. A kernel that crashes ends the run, since it
takes the process's GPU with it. `--minutes` starts no step after that time. `--dry-run` walks all
steps, does what needs no GPU, tells what each of the others needs, and writes to the files it is
told to only. The exit code is 1 where a step failed or a kernel's answer was wrong, 2 where the
results file is not of this GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from acceptance.cases import all_cases
from acceptance.cuda_driver import ContextLost, Device, driver_problem
from acceptance.images import prepare_images
from acceptance.report import render
from acceptance.results import FAILED, MISSING, PREPARED, RAN, Results
from acceptance.stage_a import stage_a_steps
from acceptance.stage_b import stage_b_steps
from acceptance.steps import Setting, Step, missing
from calibration_study.report import replace_section
from machine import machine

from vq4dit.errors import ArtifactError, Vq4ditError
from vq4dit.plugins.cuda.compile import SMS

_FOLDER = Path(__file__).resolve().parent
_SECTION = "gpu-acceptance"


def main() -> int:
    """Prepare or run; the exit code."""
    args = _arguments()
    if args.command == "prepare":
        cases = [case for case in all_cases() if fnmatch(f"kernels/{case.name}", args.only)]
        print(prepare_images(args.images, cases, args.sm, _say), "images in", args.images)
        return 0
    try:
        results = Results(args.output, _machine())
    except ArtifactError as error:
        _say(f"gpu_acceptance: {error}")
        return 2
    run_steps(_chosen(args), _setting(args), results, dry=args.dry_run, minutes=args.minutes)
    replace_section(args.markdown, _SECTION, render(results.document))
    _say(f"report: {args.markdown}, data: {args.output}")
    return 0 if is_good(results.document) else 1


def run_steps(
    steps: list[Step], setting: Setting, results: Results, *, dry: bool, minutes: float
) -> None:
    """Run what can run here, in order, until the time is over or a kernel crashes.

    Steps that failed before come last, so that one that crashes again keeps no other from its turn.
    """
    start = time.monotonic()
    ordered = sorted(steps, key=lambda step: results.has_failed(step.name))
    for number, step in enumerate(ordered):
        if results.is_done(step.name):
            continue
        if time.monotonic() - start > 60 * minutes:
            _say(f"{minutes:g} minutes are over; {len(steps) - number} steps are left: run again")
            return
        is_alive = _run_step(step, setting, results, dry=dry)
        told = results.document["steps"][step.name]
        _say(f"{number + 1}/{len(steps)} {step.name}: {told['state']} {told.get('reason', '')}")
        if not is_alive:
            _say("a kernel crashed, and with it the GPU of this process: run again for the rest")
            return


def is_good(document: dict[str, Any]) -> bool:
    """Whether no step failed and no row is wrong."""
    failed = [name for name, step in document["steps"].items() if step["state"] == FAILED]
    return not failed and all(row.get("ok", True) for row in document["rows"])


def _run_step(step: Step, setting: Setting, results: Results, *, dry: bool) -> bool:
    """Measure where everything is there, else prepare; whether the GPU still works for others."""
    reason = missing(step.needs, setting)
    try:
        if reason is None and not (dry and "gpu" in step.needs):
            results.put(step.name, RAN, rows=step.measure(setting))
        elif step.prepare is None or missing(step.prepare_needs, setting):
            results.put(step.name, MISSING, reason=reason or "a run without --dry-run")
        else:
            done = step.prepare(setting)
            needed = reason or "a run without --dry-run"
            results.put(step.name, PREPARED, reason=f"{done}; the rest needs {needed}")
    except Exception as error:  # whatever a step meets, the others shall run
        text = " ".join(str(error).split()) or "no reason given"
        is_ours = isinstance(error, (Vq4ditError, OSError))
        results.put(
            step.name, FAILED, reason=text if is_ours else f"{type(error).__name__}: {text}"
        )
        return not isinstance(error, ContextLost)
    return True


def _machine() -> dict[str, Any]:
    found = machine(("numpy",))
    if driver_problem() is not None:
        return found | {"gpu": None}
    device = Device()
    return found | {
        "gpu": device.name,
        "compute_capability": device.compute_capability,
        "cuda_driver": device.driver_version,
        "gpu_memory_bytes": device.memory()[1],
    }


def _chosen(args: argparse.Namespace) -> list[Step]:
    steps = (*stage_a_steps(), *stage_b_steps())
    return [s for s in steps if s.stage in args.stage and fnmatch(s.name, args.only)]


def _setting(args: argparse.Namespace) -> Setting:
    args.work.mkdir(parents=True, exist_ok=True)
    return Setting(
        work=args.work,
        images=args.images,
        artifact=args.artifact,
        checkpoint=args.checkpoint,
        tensorrt_root=args.tensorrt_root,
        batches=tuple(args.batches),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="compile the kernels for GPU machines")
    prepare.add_argument("--sm", type=int, nargs="+", required=True, choices=SMS)
    prepare.add_argument("--images", type=Path, required=True, help="folder to write to")
    run = commands.add_parser("run", help="run the steps")
    run.add_argument("--stage", default="AB", choices=("A", "B", "AB"))
    run.add_argument("--dry-run", action="store_true", help="what needs no GPU, and the list")
    run.add_argument("--minutes", type=float, default=9.0, help="start no step after this time")
    run.add_argument("--images", type=Path, help="folder that `prepare` made")
    run.add_argument("--work", type=Path, default=Path("build/gpu-acceptance"))
    run.add_argument("--artifact", type=Path, help="quantized DiT-XL/2")
    run.add_argument("--checkpoint", type=Path, help="the same model unquantized")
    run.add_argument("--tensorrt-root", type=Path, help="TensorRT SDK, for the plugin library")
    run.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    default = _FOLDER / "results" / "gpu_acceptance.json"
    run.add_argument("--output", type=Path, default=default)
    run.add_argument("--markdown", type=Path, default=_FOLDER / "RESULTS.md")
    for command in (prepare, run):
        command.add_argument("--only", default="*", help="names of steps, such as 'kernels/*m512*'")
    args = parser.parse_args()
    if getattr(args, "dry_run", False) and default in (args.output,):
        args.output = args.work / "dry-run.json"
        args.markdown = args.work / "dry-run.md"
    return args


def _say(text: str) -> None:
    print(text.rstrip(), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
