"""The table of targets: where an engine runs, in which form it is exported, why it cannot here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from vq4dit.errors import BackendUnavailable, OptionError
from vq4dit.plugins.layout import AssignmentLayout


@dataclass(frozen=True, kw_only=True)
class Target:
    """One way of running an engine.

    Args:
        name: what `--target` takes.
        form: export form of the step model.
        assignment_layout: order of the packed bytes that its kernels stream through.
        runs_on: how the quantized layers run, for people.
        modules: Python modules that building and running need.
        missing_part: what this version of vq4dit does not have yet for it, "" if nothing.
        remedy: what to do where it cannot be built.
    """

    name: str
    form: str
    assignment_layout: AssignmentLayout
    runs_on: str
    modules: tuple[str, ...]
    missing_part: str = ""
    remedy: str = ""

    def why_not_here(self) -> str | None:
        """What keeps this target from running here, as one sentence; None if nothing does."""
        if self.missing_part:
            return f"{self.missing_part}; {self.remedy}"
        missing = [name for name in self.modules if find_spec(name) is None]
        if missing:
            return f"module {missing[0]} is not installed; {self.remedy}"
        return None


TARGETS = {
    target.name: target
    for target in (
        Target(
            name="cpu",
            form="function",
            assignment_layout=AssignmentLayout.FOUR_MAJOR,
            runs_on="ONNX Runtime with the native CPU kernels, else function bodies",
            modules=("onnxruntime",),
            remedy="pip install onnxruntime",
        ),
        Target(
            name="onnx",
            form="function",
            assignment_layout=AssignmentLayout.ROWS,
            runs_on="any ONNX Runtime and provider, by the function bodies (portable, slower)",
            modules=("onnxruntime",),
            remedy="pip install onnxruntime",
        ),
        Target(
            name="tensorrt",
            form="plugin",
            assignment_layout=AssignmentLayout.ROWS,
            runs_on="TensorRT with the CUDA kernels as ahead-of-time plugins",
            modules=("tensorrt",),
            missing_part="this version has no TensorRT builder",
            remedy="build with --target cpu or onnx",
        ),
        Target(
            name="tensorrt-rtx",
            form="inlined",
            assignment_layout=AssignmentLayout.ROWS,
            runs_on="TensorRT for RTX, by the inlined function bodies",
            modules=("tensorrt_rtx",),
            missing_part="this version has no TensorRT-RTX builder",
            remedy="build with --target cpu or onnx",
        ),
    )
}


def require_target(name: str) -> Target:
    """The target of this name, if it can be built and run here.

    Raises:
        OptionError: no target has this name.
        BackendUnavailable: it cannot be used here; the message says why and what to do.
    """
    if name not in TARGETS:
        raise OptionError(f"target {name!r} is unknown; needed one of {', '.join(TARGETS)}")
    reason = TARGETS[name].why_not_here()
    if reason is not None:
        raise BackendUnavailable(f"target {name!r} is not available: {reason}")
    return TARGETS[name]
