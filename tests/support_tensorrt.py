"""The real Python bindings of full TensorRT, without its builder and without a GPU.

The wheel tensorrt-cu13-bindings holds the bindings only and asks for three libraries of the SDK.
tensorrt-lean-cu13 brings the real runtime and plugin registry; three libraries of a few lines,
compiled here, stand for the rest (no builder, no parser) and pull the lean one in. The bindings
must find them when the process starts, so everything runs in a child process.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

#: Library name -> its source. What creates builders and parsers returns nothing.
_STUBS = {
    "libnvinfer.so.11": """
        void* createInferBuilder_INTERNAL(void* logger, int version) { return 0; }
        void* createInferRefitter_INTERNAL(void* engine, void* logger, int version) { return 0; }
        void* getBuilderPluginRegistry(int capability) { return 0; }
    """,
    "libnvonnxparser.so.11": """
        void* createNvOnnxParser_INTERNAL(void* net, void* logger, int version) { return 0; }
        void* createNvOnnxParserRefitter_INTERNAL(void* r, void* logger, int v) { return 0; }
        int getNvOnnxParserVersion(void) { return 110400; }
    """,
    "libnvinfer_plugin.so.11": "int initLibNvInferPlugins(void* l, const char* n) { return 1; }",
}


def lean_library() -> Path | None:
    """libnvinfer_lean.so of the wheel tensorrt-lean-cu13, None where it is not installed."""
    spec = find_spec("tensorrt_lean_libs")
    if spec is None or spec.submodule_search_locations is None:
        return None
    found = sorted(Path(spec.submodule_search_locations[0]).glob("libnvinfer_lean.so.*"))
    return found[-1] if found else None


def why_no_bindings() -> str | None:
    """What keeps the real bindings from being imported here; None if nothing does."""
    if find_spec("tensorrt_bindings") is None or lean_library() is None:
        return "needs tensorrt-cu13-bindings and tensorrt-lean-cu13"
    return None if shutil.which("cc") else "needs a C compiler for the stub libraries"


needs_bindings = pytest.mark.skipif(why_no_bindings() is not None, reason=str(why_no_bindings()))


def run_with_bindings(script: Path, *arguments: str, lines: list[str] | None = None) -> Any:
    """Run a script where `import_tensorrt` works; the JSON value of its last line of output.

    All lines of the output go into `lines`.
    """
    lean = lean_library()
    assert lean is not None
    paths = [str(_stub_folder()), str(lean.parent), os.environ.get("LD_LIBRARY_PATH", "")]
    modules = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths)),
        "PYTHONPATH": os.pathsep.join(filter(None, modules)),
    }
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.fail(f"{script.name} {' '.join(arguments)}\n{done.stderr[-4000:]}", pytrace=False)
    output = done.stdout.splitlines()
    if lines is not None:
        lines += output
    return json.loads(output[-1])


def import_tensorrt() -> ModuleType:
    """The bindings under the name that the SDK's own wheel gives them; in the child only."""
    tensorrt = importlib.import_module("tensorrt_bindings")
    sys.modules["tensorrt"] = tensorrt
    plugin = importlib.import_module("tensorrt_bindings.plugin")
    sys.modules["tensorrt.plugin"] = plugin
    tensorrt.plugin = plugin
    return tensorrt


@functools.cache
def _stub_folder() -> Path:
    """Compile the stub libraries, once per test run."""
    folder = tempfile.TemporaryDirectory(prefix="vq4dit-tensorrt-stubs-")
    _keep.append(folder)
    lean = lean_library()
    for name, source in _STUBS.items():
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{name}"]
        command += ["-o", str(Path(folder.name) / name)]
        if name == "libnvinfer.so.11":
            command += ["-Wl,--no-as-needed", "-x", "none", str(lean)]
        subprocess.run(command, input=source, text=True, check=True)
    return Path(folder.name)


#: Removed when the process ends.
_keep: list[tempfile.TemporaryDirectory[str]] = []
