"""The builder's process: `python -m vq4dit.engines.plan_worker`, the job as JSON on stdin.

Prints one JSON object per line on stdout: {"event": "start", "phase", "parent", "steps"},
{"event": "step", "phase", "step"}, {"event": "finish", "phase"}, and last {"event": "done",
"version"} or {"event": "error", "message", "kind"}; kind is the class of an error of ours or of the
system's, "" if the builder refused. All else, the builder's own words included, goes to stderr.
POLYGRAPHY_USE_TENSORRT_RTX must be set as the job's target wants it.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from vq4dit.atomic_file import atomic_path
from vq4dit.errors import BackendUnavailable, OptionError
from vq4dit.runtime.gpu import sm_name

from .plan_job import PlanJob

#: Major version of TensorRT that first has IPluginV3.
_FIRST_TENSORRT = 10


def main() -> int:
    """Build the plan that stdin orders; the exit code is 0 if it was written."""
    events = _take_stdout()
    job = PlanJob.from_json(sys.stdin.read())

    def say(event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}), file=events, flush=True)

    try:
        version = build_plan(job, say)
    except Exception as error:  # Polygraphy's, TensorRT's or the plugins' own: all end here
        message = " ".join(str(error).split()) or type(error).__name__
        say("error", message=message, kind=_kind(error))
        return 1
    say("done", version=version)
    return 0


def build_plan(job: PlanJob, say: Any) -> str:
    """Parse the ONNX model and write the plan; returns the builder's version.

    Args:
        job: what to build.
        say: called with the name of an event and its values.
    """
    from polygraphy.backend import trt as loaders
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.WARNING
    trt = _bindings(job.target)
    _load_plugins(job, trt)
    network = loaders.NetworkFromOnnxPath(job.onnx_path, strongly_typed=True)
    build = loaders.EngineBytesFromNetwork(
        network, config=builder_config(job, trt, say), save_timing_cache=job.timing_cache
    )
    plan = build()
    with atomic_path(Path(job.plan_path)) as temporary:
        temporary.write_bytes(plan)
    return str(trt.__version__)


def _bindings(target: str) -> Any:
    """The module that Polygraphy was told to use.

    Raises:
        BackendUnavailable: it does not import, or is too old for our plugins.
    """
    name = "tensorrt_rtx" if target == "tensorrt-rtx" else "tensorrt"
    try:
        trt = import_module(name)
    except ImportError as error:
        raise BackendUnavailable(
            f"module {name} does not import ({error}); install it again, with the libraries of "
            "its version"
        ) from None
    if target == "tensorrt" and int(trt.__version__.partition(".")[0]) < _FIRST_TENSORRT:
        raise BackendUnavailable(
            f"TensorRT {trt.__version__} is too old, needed {_FIRST_TENSORRT}.0 or newer; update "
            "it (on Jetson: JetPack 6 or newer), or build with --target cpu or onnx"
        )
    return trt


def builder_config(job: PlanJob, trt: Any, say: Any) -> Any:
    """Polygraphy's loader of the builder's configuration."""
    from polygraphy.backend.trt import CreateConfig, Profile

    profile = Profile()
    for name, (low, opt, high) in job.profile.items():
        profile.add(name, low, opt, high)
    limits = None
    if job.workspace_bytes is not None:
        limits = {trt.MemoryPoolType.WORKSPACE: job.workspace_bytes}
    options: dict[str, Any] = {
        "profiles": [profile],
        "memory_pool_limits": limits,
        "profiling_verbosity": trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
        "progress_monitor": progress_monitor(trt, say),
    }
    if job.target == "tensorrt":
        return CreateConfig(
            **options,
            load_timing_cache=job.timing_cache,
            version_compatible=job.version_compatible,
        )
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

    return CreateConfigRTX(**options, compute_capabilities=_rtx_capabilities(job, trt))


def _rtx_capabilities(job: PlanJob, trt: Any) -> list[tuple[int, int]]:
    """The job's GPUs as Polygraphy takes them; OptionError for one that TensorRT-RTX lacks."""
    members = [m.removeprefix("SM") for m in trt.ComputeCapability.__members__]
    known = [f"{m[:-1]}.{m[-1]}" for m in members if m.isdecimal()]
    for capability in job.compute_capabilities:
        if capability not in known:
            raise OptionError(
                f"compute capability {capability} ({sm_name(capability)}) is not among those that "
                f"TensorRT-RTX {trt.__version__} builds for: {', '.join(known)}"
            )
    pairs = [capability.split(".") for capability in job.compute_capabilities]
    return [(int(major), int(minor)) for major, minor in pairs]


def progress_monitor(trt: Any, say: Any) -> Any:
    """An IProgressMonitor that tells every event."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Called by the builder from its threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            say("start", phase=phase_name, parent=parent_phase, steps=num_steps)

        def phase_finish(self, phase_name: str) -> None:
            say("finish", phase=phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            say("step", phase=phase_name, step=step)
            return True  # go on

    return Monitor()


def _load_plugins(job: PlanJob, trt: Any) -> None:
    """Make the ops known to the parser."""
    if job.plugin == "aot":
        from vq4dit.plugins.tensorrt import register_plugins

        register_plugins(int(job.compute_capabilities[0].replace(".", "")))
    elif job.plugin == "library":
        if trt.get_plugin_registry().load_library(job.plugin_library) is None:
            raise BackendUnavailable(
                f"{job.plugin_library}: TensorRT {trt.__version__} does not load the library; "
                "build it on this machine with CMake from plugins/tensorrt/cpp"
            )


def _kind(error: Exception) -> str:
    """Name of the class that the other process shall raise, "" for a refusal of the builder."""
    for kind in (OptionError, BackendUnavailable, OSError):
        if isinstance(error, kind):
            return kind.__name__
    return ""


def _take_stdout() -> IO[str]:
    """A stream to the real stdout; whatever else is printed goes to stderr from now on."""
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return events


if __name__ == "__main__":
    sys.exit(main())
