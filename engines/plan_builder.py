"""Run the builder's process for one plan, tell its progress, and turn its end into an answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vq4dit.errors import ArtifactError, BackendUnavailable, OptionError, Vq4ditError

from .plan_job import PlanJob

#: Called with the phase of the builder, steps done and steps in all.
PlanProgress = Callable[[str, int, int], None]

_WORKER = "vq4dit.engines.plan_worker"
_LAST_BYTES = 4000

#: Errors of the worker that are raised here as they are.
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (OptionError, BackendUnavailable, OSError)
}


def run_job(job: PlanJob, progress: PlanProgress | None = None) -> str:
    """Build the plan of a job; returns the version of the builder.

    Args:
        job: what to build; its plan exists afterwards.
        progress: called for the builder's outermost phases.
    Raises:
        ArtifactError: the builder refused the model; the message has its reason.
        Vq4ditError: the builder's process died.
        OptionError, BackendUnavailable: the job asks for what the builder does not have.
        OSError: the plan could not be written.
    """
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env=_environment(job.target), text=True,
        ) as process:  # fmt: skip
            try:
                last = _follow(process, job, progress)
            except BaseException:
                process.kill()
                raise
        if process.returncode == 0 and last.get("event") == "done":
            return str(last["version"])
        raise _failure(job, process.returncode, last, _end_of(log))


def _environment(target: str) -> dict[str, str]:
    """The environment in which Polygraphy takes the target's bindings; the GPU loads lazily."""
    is_rtx = target == "tensorrt-rtx"
    return {
        **os.environ,
        "POLYGRAPHY_USE_TENSORRT_RTX": "1" if is_rtx else "0",
        "CUDA_MODULE_LOADING": os.environ.get("CUDA_MODULE_LOADING", "LAZY"),
    }


def _follow(
    process: subprocess.Popen[str], job: PlanJob, progress: PlanProgress | None
) -> dict[str, Any]:
    """Send the job and read events to the end; returns the last one."""
    assert process.stdin is not None and process.stdout is not None  # both are pipes
    try:
        process.stdin.write(job.to_json())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it died at once: its exit code tells
    last: dict[str, Any] = {}
    phases = _Phases(progress)
    for line in process.stdout:
        last = json.loads(line)
        phases.take(last)
    return last


class _Phases:
    """Tells the progress of phases that have no parent; inner ones come and go in milliseconds."""

    def __init__(self, progress: PlanProgress | None) -> None:
        self._progress = progress
        self._steps: dict[str, int] = {}

    def take(self, event: dict[str, Any]) -> None:
        """Take one event of the builder."""
        phase = str(event.get("phase", ""))
        if event["event"] == "start" and not event["parent"]:
            self._steps[phase] = int(event["steps"])
            self._tell(phase, 0)
        elif event["event"] == "step":
            self._tell(phase, int(event["step"]) + 1)
        elif event["event"] == "finish":
            self._tell(phase, self._steps.get(phase, 0))
            self._steps.pop(phase, None)

    def _tell(self, phase: str, done: int) -> None:
        if self._progress is not None and phase in self._steps:
            self._progress(phase, min(done, self._steps[phase]), self._steps[phase])


def _failure(job: PlanJob, code: int, last: dict[str, Any], log: str) -> Exception:
    """What to raise for a builder that wrote no plan."""
    model = Path(job.onnx_path).name
    if last.get("event") != "error":
        how = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        words = f"; its last words: {log}" if log else ""
        return Vq4ditError(
            f"the {job.target} builder {how} while it built {model}{words}; free memory if it was "
            "killed, else report this"
        )
    reasons = [text for text in (last["message"], log) if text]
    if last["kind"] in _KINDS:
        return _KINDS[last["kind"]](last["message"])
    return ArtifactError(
        f"the {job.target} builder refused {model}: {'; '.join(reasons)}; update the builder, or "
        "build with --target cpu or onnx"
    )


def _end_of(log: Any) -> str:
    """The errors at the end of the builder's log in one line."""
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - _LAST_BYTES))
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    errors = [line for line in lines if line.startswith(("[E]", "[!]"))] or lines[-3:]
    return " | ".join(dict.fromkeys(line for line in errors[-3:] if line))
