"""The GPU double has the names and parameters of the real bindings of CUDA and TensorRT.

TensorRT's bindings are C++: their parameters stand in the first lines of the docstrings. Three real
modules are read, each in a process of its own: full TensorRT (over stub libraries), its lean
runtime, and TensorRT for RTX.
"""

import inspect
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import support_gpu_double as double
from support_tensorrt import run_with_bindings, why_no_bindings
from tensorrt_docstrings import CLASSES, RTX_CLASSES

MODULES = ("tensorrt", "tensorrt_lean", "tensorrt_rtx")
ENUMS = ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode")
SCRIPT = Path(__file__).parents[1] / "tensorrt_docstrings.py"


def public(kind):
    """Methods and properties of a class of the double: name -> parameters, None for a property."""
    found = {}
    for name, value in vars(kind).items():
        if isinstance(value, property):
            found[name] = None
        elif inspect.isfunction(value) and not name.startswith("_"):
            found[name] = [p for p in inspect.signature(value).parameters if p != "self"]
    return {name: value for name, value in found.items() if name not in ("names", "dtype")}


def parameters(docstring):
    """Names of the parameters of every overload, with the number that have no default."""
    overloads = re.findall(r"\w+\(self: [\w.]+((?:, [^)]*)?)\) ->", docstring)
    return [
        [(p.split(":")[0].strip(), "=" not in p) for p in overload.split(",") if p.strip()]
        for overload in overloads
    ]


def read(module):
    if module == "tensorrt":
        if why_no_bindings():
            pytest.skip(str(why_no_bindings()))
        return run_with_bindings(SCRIPT, module)
    if find_spec(module) is None:
        pytest.skip(f"module {module} is not installed")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), module], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", MODULES)
def test_tensorrt_has_every_name_with_these_parameters(module):
    real = read(module)
    checked = 0
    for name in CLASSES + (RTX_CLASSES if module == "tensorrt_rtx" else ()):
        for member, wanted in public(getattr(double, name)).items():
            assert member in real[name], f"{module}.{name} has no {member}"
            if wanted is None:
                continue
            overloads = parameters(real[name][member])
            assert overloads, real[name][member]
            fits = any(
                [p for p, _ in overload][: len(wanted)] == wanted
                and not any(needed for _, needed in overload[len(wanted) :])
                for overload in overloads
            )
            assert fits, f"{module}.{name}.{member}{wanted}: {overloads}"
            checked += 1
    assert checked == (18 if module == "tensorrt_rtx" else 14)
    assert "engine_host_code_allowed" in real["Runtime"]


def test_rtx_tells_whether_a_stream_can_be_recorded():
    assert parameters(read("tensorrt_rtx")["IExecutionContext"]["is_stream_capturable"]) != []


def test_cuda_has_every_function_with_these_parameters():
    functions = {
        name: value
        for name, value in vars(double.CudaDouble).items()
        if name.startswith("cuda") and inspect.isfunction(value)
    }
    assert len(functions) >= 15
    for name, function in functions.items():
        real = list(inspect.signature(getattr(double.real_cuda, name)).parameters)
        assert real == [p for p in inspect.signature(function).parameters if p != "self"], name


def test_every_cuda_name_in_the_sessions_is_a_real_one():
    folder = Path(__file__).parents[2] / "runtime"
    names = {
        name
        for file in ("cuda_calls.py", "trt_runner.py")
        for name in re.findall(r"\bcuda[A-Z]\w*", (folder / file).read_text())
    }
    homes = [double.real_cuda, *(getattr(double.real_cuda, e) for e in ENUMS)]
    assert len(names) > 20
    assert {name for name in names if not any(hasattr(home, name) for home in homes)} == set()
