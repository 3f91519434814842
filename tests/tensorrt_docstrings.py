"""Print the docstrings of classes of a TensorRT module as JSON: `tensorrt_docstrings.py MODULE`.

pybind11 writes a function's parameters into its docstring. A process of its own for each module.
"""

import json
import sys
from importlib import import_module

from support_tensorrt import import_tensorrt

CLASSES = ("ILogger", "IPluginRegistry", "IExecutionContext", "ICudaEngine", "Runtime")
RTX_CLASSES = ("IRuntimeConfig", "IRuntimeCache")


def docstrings(module):
    """Class -> member -> docstring."""
    return {
        kind: {
            member: getattr(getattr(module, kind), member).__doc__ or ""
            for member in dir(getattr(module, kind))
            if not member.startswith("_")
        }
        for kind in CLASSES + RTX_CLASSES
        if hasattr(module, kind)
    }


if __name__ == "__main__":
    chosen = sys.argv[1]
    print(
        json.dumps(docstrings(import_tensorrt() if chosen == "tensorrt" else import_module(chosen)))
    )
