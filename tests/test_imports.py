"""Who imports whom: the runtime needs no torch, onnx or other extra; one name per module."""

import json
import subprocess
import sys

import pytest

#: Must not be loaded by a run of an engine, nor by the command line's start.
HEAVY = ("torch", "onnx", "diffusers", "scipy", "tensorrt", "tensorrt_rtx", "transformers")
FOLDERS = ("calibrate", "export", "plugins", "runtime", "engines", "demo")


def _modules_after(code):
    """Names in sys.modules after running code in a fresh interpreter."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def pipeline_modules():
    return _modules_after("import vq4dit.runtime.pipeline")


def test_pipeline_loads_nothing_heavy(pipeline_modules):
    assert not pipeline_modules & set(HEAVY)


def test_the_package_alone_loads_nothing():
    found = _modules_after("import vq4dit; assert 'Pipeline' in vq4dit.__all__")
    assert not found & {*HEAVY, "numpy", "onnxruntime", "PIL", "safetensors", "tqdm", "argparse"}


def test_onnxruntime_and_pillow_are_loaded_on_use_only(pipeline_modules):
    assert not pipeline_modules & {"onnxruntime", "PIL", "tqdm"}


def test_runtime_knows_of_engines_the_manifest_alone(pipeline_modules):
    engines = {name for name in pipeline_modules if name.startswith("vq4dit.engines.")}
    assert engines == {"vq4dit.engines.manifest"}
    assert not {n for n in pipeline_modules if n.startswith(("vq4dit.calibrate", "vq4dit.export"))}


def test_plugins_need_numpy_only():
    found = _modules_after("import vq4dit.plugins.schema")
    assert "numpy" in found and not found & {*HEAVY, "onnxruntime", "vq4dit.runtime"}


def test_command_line_starts_without_heavy_modules():
    found = _modules_after("import vq4dit.cli, vq4dit.commands.sample, vq4dit.commands.build")
    assert not found & {*HEAVY, "onnxruntime", "numpy"}


def test_folders_are_imported_under_one_name(pipeline_modules):
    assert not pipeline_modules & set(FOLDERS)
