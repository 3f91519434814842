"""What can be chosen for the targets that build plans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vq4dit.errors import OptionError

from .linear_choice import AUTO, LINEARS

_MAX_BATCH = 1 << 12


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What can be chosen for the targets that build plans.

    Args:
        batch: smallest, usual and largest number of samples in one step.
        compute_capabilities: GPUs of a TensorRT-RTX plan, () for DEFAULT_RTX_CAPABILITIES;
            TensorRT builds for the GPU that it finds.
        version_compatible: let later versions of TensorRT run the plan (target tensorrt).
        plugin_library: our C++ plugin library, for versions of TensorRT before 10.9 (target
            tensorrt); None puts the kernels into the plan.
        linears: one of LINEARS, how quantized linears run (target tensorrt).
        use_cache: take a plan that was built from the same bytes before.
    """

    batch: tuple[int, int, int] = (1, 1, 1)
    compute_capabilities: tuple[str, ...] = ()
    version_compatible: bool = False
    plugin_library: Path | None = None
    linears: str = AUTO
    use_cache: bool = True

    def check(self, target: str) -> None:
        """OptionError where an option is out of range or not for this target."""
        low, opt, high = self.batch
        if not 1 <= low <= opt <= high <= _MAX_BATCH:
            raise OptionError(
                f"batch is {low}:{opt}:{high}, needed 1 <= min <= opt <= max <= {_MAX_BATCH}"
            )
        if target == "tensorrt" and self.compute_capabilities:
            raise OptionError(
                "GPUs can be chosen for target tensorrt-rtx only; TensorRT builds for the GPU "
                "that it finds"
            )
        if target == "tensorrt-rtx" and (self.version_compatible or self.plugin_library):
            raise OptionError(
                "a version-compatible plan and a plugin library are for target tensorrt only"
            )
        if self.linears not in LINEARS:
            raise OptionError(f"linears is {self.linears!r}, needed one of {', '.join(LINEARS)}")
        if target == "tensorrt-rtx" and self.linears != AUTO:
            raise OptionError(
                f"linears {self.linears} is for target tensorrt only; tensorrt-rtx has no plugins "
                "and runs every quantized linear by standard ops"
            )
        if self.plugin_library is not None and not self.plugin_library.is_file():
            raise OptionError(
                f"{self.plugin_library}: the plugin library is missing; build it with CMake from "
                "plugins/tensorrt/cpp"
            )
