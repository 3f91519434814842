"""Loads a plugin library into the registry of TensorRT's lean runtime; prints what was made.

A process of its own: a registry keeps its creators, and the lean runtime looks for a driver.
"""

import ctypes
import sys

import numpy as np
import tensorrt_lean as trt

OPS = ("CodebookGemm", "CodebookGemmResidual", "CodebookDecode")
INTEGERS = {
    "in_features": 128,
    "codebook_size": 256,
    "sub_vector_len": 4,
    "group_order": 1,
    "assignment_layout": 2,
}


def fields():
    made = [
        trt.PluginField(name, np.array([value], np.int32), trt.PluginFieldType.INT32)
        for name, value in INTEGERS.items()
    ]
    return [*made, trt.PluginField("activation", b"silu", trt.PluginFieldType.CHAR)]


registry = trt.get_plugin_registry()
if "preload" in sys.argv[1]:
    ctypes.CDLL(sys.argv[1])
else:
    assert registry.load_library(sys.argv[1]) is not None
for op in OPS:
    creator = registry.get_creator(op, "1", "vq4dit")
    plugin = creator.create_plugin(
        op, trt.PluginFieldCollection(fields()), trt.TensorRTPhase.RUNTIME
    )
    core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
    build = plugin.get_capability_interface(trt.PluginCapabilityType.BUILD)
    assert (core.plugin_namespace, core.plugin_version) == ("vq4dit", "1")
    assert build.num_outputs == 1
    print(core.plugin_name)
