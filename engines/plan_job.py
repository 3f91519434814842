"""The order to build one plan: plain values that travel to the builder's process as JSON.

A TensorRT builder runs in a process of its own: whether Polygraphy takes TensorRT or TensorRT-RTX
is settled when it is imported, and a builder that ends its process ends no more than that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: min, opt and max shape of one input.
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class PlanJob:
    """One plan to build.

    Args:
        target: "tensorrt" or "tensorrt-rtx".
        onnx_path, plan_path: what to read and what to write.
        profile: input -> shapes, for every input with a dynamic dimension.
        compute_capabilities: GPUs to build for, such as ("8.6",); TensorRT knows its own GPU.
        workspace_bytes: scratch memory that one layer may use, None for TensorRT's choice.
        timing_cache: file of kernel timings to read and to add to, None for none.
        version_compatible: let later versions of TensorRT run the plan.
        plugin: one of `vq4dit.gpu_build.PLUGIN_KINDS`.
        plugin_library: our C++ library, for plugin "library".
    """

    target: str
    onnx_path: str
    plan_path: str
    profile: Mapping[str, Shapes]
    compute_capabilities: tuple[str, ...]
    workspace_bytes: int | None = None
    timing_cache: str | None = None
    version_compatible: bool = False
    plugin: str = "none"
    plugin_library: str | None = None

    def to_json(self) -> str:
        """All values as JSON."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> PlanJob:
        """The job that `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        values["compute_capabilities"] = tuple(values["compute_capabilities"])
        values["profile"] = {
            name: tuple(tuple(shape) for shape in shapes)
            for name, shapes in values["profile"].items()
        }
        return cls(**values)
