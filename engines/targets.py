"""The table of targets: where an engine runs, in which form it is exported, why it cannot here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from vq4dit.errors import BackendUnavailable, OptionError
from vq4dit.plugins.layout import AssignmentLayout
from vq4dit.runtime.gpu import find_driver


@dataclass(frozen=True, kw_only=True)
class Target:
    """One way of running an engine.

    Args:
        name: what `--target` takes.
        form: export form of the step model.
        assignment_layout: order of the packed bytes that its kernels stream through.
        weights: element types that `--weights` may name, the default first.
        runs_on: how the quantized layers run, for people.
        build_modules: Python modules that building needs besides onnx.
        run_modules: likewise for running; of names in one string one is enough.
        packages: distributions whose version is that of the builder.
        remedy: the command that adds the modules.
        needs_gpu_to_build: whether the builder times kernels on the GPU that will run them.
        needs_gpu_to_run: whether running needs a GPU.
        fuse_adaln: write the adaLN linears of all blocks as one node; where a node decodes its
            weight to memory that is 0.45 GB in float16 for DiT-XL/2, so better not.
        fuse_attention: write attention as a node that ONNX Runtime alone has.
    """

    name: str
    form: str
    assignment_layout: AssignmentLayout
    weights: tuple[str, ...]
    runs_on: str
    build_modules: tuple[str, ...]
    run_modules: tuple[str, ...]
    packages: tuple[str, ...]
    remedy: str
    needs_gpu_to_build: bool = False
    needs_gpu_to_run: bool = False
    fuse_adaln: bool = True
    fuse_attention: bool = False

    def why_not_built_here(self) -> str | None:
        """What keeps this target from being built here, as one sentence; None if nothing does."""
        return self._why_not(self.build_modules, needs_gpu=self.needs_gpu_to_build)

    def why_not_run_here(self) -> str | None:
        """What keeps its engines from running here; None if nothing does."""
        return self._why_not(self.run_modules, needs_gpu=self.needs_gpu_to_run)

    def _why_not(self, modules: tuple[str, ...], *, needs_gpu: bool) -> str | None:
        for names in modules:
            if not any(is_installed(name) for name in names.split(" or ")):
                return f"module {names} is not installed; {self.remedy}"
        reason = find_driver()[1] if needs_gpu else ""
        if reason:
            return f"{reason}; use a machine with an NVIDIA GPU, or --target cpu"
        return None


TARGETS = {
    target.name: target
    for target in (
        Target(
            name="cpu",
            form="function",
            assignment_layout=AssignmentLayout.FOUR_MAJOR,
            weights=("fp32",),
            runs_on="ONNX Runtime with the native CPU kernels, else function bodies",
            build_modules=("onnxruntime",),
            run_modules=("onnxruntime",),
            packages=("onnxruntime",),
            remedy="pip install onnxruntime",
            fuse_attention=True,
        ),
        Target(
            name="onnx",
            form="function",
            assignment_layout=AssignmentLayout.ROWS,
            weights=("fp32", "fp16"),
            runs_on="any ONNX Runtime and provider, by the function bodies (portable, slower)",
            build_modules=("onnxruntime",),
            run_modules=("onnxruntime",),
            packages=("onnxruntime", "onnxruntime-gpu"),
            remedy="pip install onnxruntime",
            fuse_adaln=False,
        ),
        Target(
            name="tensorrt",
            form="plugin",
            assignment_layout=AssignmentLayout.MMA_LANES,
            weights=("fp16", "bf16"),
            runs_on="TensorRT with the CUDA kernels as ahead-of-time plugins",
            build_modules=("tensorrt", "polygraphy"),
            run_modules=("tensorrt or tensorrt_lean", "cuda.bindings"),
            packages=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
            remedy="pip install 'vq4dit[tensorrt]' (from NVIDIA's package index), "
            "or build with --target tensorrt-rtx, cpu or onnx",
            needs_gpu_to_build=True,
            needs_gpu_to_run=True,
        ),
        Target(
            name="tensorrt-rtx",
            form="inlined",
            assignment_layout=AssignmentLayout.ROWS,
            weights=("fp16", "bf16", "fp32"),
            runs_on="TensorRT for RTX, by the inlined function bodies",
            build_modules=("tensorrt_rtx", "polygraphy.backend.tensorrt_rtx"),
            run_modules=("tensorrt_rtx", "cuda.bindings"),
            packages=("tensorrt-rtx-cu13", "tensorrt-rtx", "tensorrt-rtx-cu12"),
            remedy="pip install 'vq4dit[tensorrt-rtx]', or build with --target cpu or onnx",
            needs_gpu_to_run=True,
            fuse_adaln=False,
        ),
    )
}


def require_target(name: str) -> Target:
    """The target of this name, if it can be built here.

    Raises:
        OptionError: no target has this name.
        BackendUnavailable: it cannot be built here; the message says why and what to do.
    """
    if name not in TARGETS:
        raise OptionError(f"target {name!r} is unknown; needed one of {', '.join(TARGETS)}")
    reason = TARGETS[name].why_not_built_here()
    if reason is not None:
        raise BackendUnavailable(f"target {name!r} is not available: {reason}")
    return TARGETS[name]


def chosen_weights(target: Target, weights: str | None) -> str:
    """The element type to build with; OptionError if the target does not have it."""
    if weights is None:
        return target.weights[0]
    if weights not in target.weights:
        raise OptionError(
            f"weights {weights} are not for target {target.name}; needed "
            f"{' or '.join(target.weights)}"
        )
    return weights


def is_installed(module: str) -> bool:
    """Whether a module can be found; of a submodule the parents are imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent is missing
        return False
