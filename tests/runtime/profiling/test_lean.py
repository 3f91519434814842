"""Profiling needs what the runtime needs, and loads it when it measures."""

import json
import subprocess
import sys

_PROGRAM = """
import json, sys
import vq4dit.runtime.profiling.measure, vq4dit.runtime.profiling.report
import vq4dit.runtime.profiling.table, vq4dit.runtime.profiling.trace
import vq4dit.runtime.profiling.memory, vq4dit.runtime.profiling.trt_nodes
print(json.dumps(sorted(sys.modules)))
"""
_HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "matplotlib",
    "scipy",
    "tensorrt",
    "cuda",
    "pynvml",
    "PIL",
}


def test_nothing_heavy_is_loaded():
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = set(json.loads(done.stdout))
    assert not names & _HEAVY
    assert not {n for n in names if n.startswith(("vq4dit.calibrate", "vq4dit.export"))}
    assert {n for n in names if n.startswith("vq4dit.engines.")} == {"vq4dit.engines.manifest"}
    assert "vq4dit.prediction" not in names
