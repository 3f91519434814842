"""TensorRT's Python bindings, which have no types, and functions in the shape that they read."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vq4dit.errors import BackendUnavailable

#: The first version whose Python bindings have ahead-of-time plugins.
_FIRST_VERSION = (10, 9)


@dataclass(frozen=True, kw_only=True)
class Bindings:
    """The modules `tensorrt` and `tensorrt.plugin`."""

    trt: Any
    plugin: Any


def import_bindings() -> Bindings:
    """TensorRT's bindings, if they have ahead-of-time plugins.

    Raises:
        BackendUnavailable: `tensorrt` is not installed, or older than 10.9.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise BackendUnavailable(
            f"module tensorrt cannot be imported ({error}); install it from NVIDIA's index, or "
            "build with --target cpu"
        ) from None
    if not hasattr(trt, "QuickPluginCreationRequest"):
        needed = ".".join(map(str, _FIRST_VERSION))
        raise BackendUnavailable(
            f"TensorRT {trt.__version__} has no ahead-of-time plugins, needed {needed} or newer; "
            "build our C++ plugin library (docs/tensorrt.md) and give it as --plugin-library"
        )
    return Bindings(trt=trt, plugin=importlib.import_module("tensorrt.plugin"))


def has_ahead_of_time_plugins(version: str) -> bool:
    """Whether TensorRT of this version, as packages tell it, takes our kernels into a plan."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2]) >= _FIRST_VERSION


def with_signature(
    function: Callable[..., Any], *, parameters: dict[str, Any], more: dict[str, Any], returns: Any
) -> Callable[..., Any]:
    """A function of these parameters, by place or by name, that calls `function`."""

    def call(*values: Any, **named: Any) -> Any:
        return function(*values, **named)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    described = [
        inspect.Parameter(name, kind, annotation=annotation)
        for name, annotation in (parameters | more).items()
    ]
    call.__signature__ = inspect.Signature(described, return_annotation=returns)  # type: ignore[attr-defined]
    return call
