"""What a manifest says of a TensorRT engine: for which GPUs and versions its plans were built."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .errors import ArtifactError
from .json_fields import Fields

#: How the quantized layers run in a plan: as standard layers, as ahead-of-time plugins whose
#: kernels are in the plan, or as plugins of our C++ library.
PLUGIN_KINDS = ("none", "aot", "library")

#: Numbers, and what Python packages may have behind them: "10.7.0.post1", "10.0.0b6".
_VERSION = re.compile(r"\d+(\.\d+){1,3}(\.?[a-z]+\d+)?")
_CAPABILITY = re.compile(r"\d{1,2}\.\d")
_MAX_BATCH = 1 << 20


@dataclass(frozen=True, kw_only=True)
class GpuBuild:
    """Facts about the build of the plans of one engine.

    Args:
        version: version of the builder, TensorRT's or TensorRT-RTX's.
        compute_capabilities: GPUs that the plans are for, such as ("8.6", "8.9").
        gpu: name of the GPU that the plans were timed on, "" where none was.
        cuda_version, driver_version: of the build machine, "" without a driver.
        plugin: one of PLUGIN_KINDS.
        version_compatible: whether later versions of TensorRT run the plans too.
        batch_opt: batch size that the plans were tuned for.
        decoded_linears: quantized linears that a step decodes before it multiplies; the others are
            gathered by one kernel.
    """

    version: str
    compute_capabilities: tuple[str, ...]
    gpu: str
    cuda_version: str
    driver_version: str
    plugin: str
    version_compatible: bool
    batch_opt: int
    decoded_linears: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, in the order of the fields."""
        lists = {"compute_capabilities", "decoded_linears"}
        return {k: list(v) if k in lists else v for k, v in vars(self).items()}

    @classmethod
    def from_fields(cls, fields: Fields) -> GpuBuild:
        """Read and check; ArtifactError names the key, what was found and what was needed."""
        capabilities = fields.texts("compute_capabilities")
        if not capabilities or not all(map(_CAPABILITY.fullmatch, capabilities)):
            raise ArtifactError(
                f"tensorrt.compute_capabilities is {list(capabilities)}, needed a list such as "
                '["8.6"]'
            )
        build = cls(
            version=fields.pattern("version", _VERSION),
            compute_capabilities=capabilities,
            gpu=fields.text("gpu"),
            cuda_version=fields.text("cuda_version"),
            driver_version=fields.text("driver_version"),
            plugin=fields.choice("plugin", PLUGIN_KINDS),
            version_compatible=fields.boolean("version_compatible"),
            batch_opt=fields.integer("batch_opt", 1, _MAX_BATCH),
            decoded_linears=(
                fields.texts("decoded_linears") if "decoded_linears" in fields.values else ()
            ),
        )
        fields.refuse_unknown()
        return build
