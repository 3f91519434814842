"""What doctor tells of this machine."""

import argparse
import json
import re
import sys

import pytest

from vq4dit.commands import doctor as command
from vq4dit.runtime import doctor
from vq4dit.runtime.doctor import OPTIONAL_MODULES, inspect_machine
from vq4dit.runtime.gpu import Driver, Gpu
from vq4dit.runtime.jetson import Jetson
from vq4dit.runtime.trt_plan import LIBRARY_VARIABLE

pytestmark = pytest.mark.ort

ORIN = Gpu(name="Orin", compute_capability="8.7", memory_bytes=8 << 30, is_integrated=True)


def test_facts_are_plain_and_complete():
    machine = inspect_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["cpu"]["cores"] >= 1
    assert set(machine["modules"]) == set(OPTIONAL_MODULES)
    assert "CPUExecutionProvider" in machine["onnxruntime"]["providers"]
    assert (machine["driver"] is None) == ("driver" in machine["missing"])


def test_missing_onnxruntime_is_told_not_raised(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    machine = inspect_machine()
    assert machine["onnxruntime"] is None
    assert machine["missing"]["onnxruntime"] == "pip install onnxruntime"


def test_every_missing_thing_has_one_command(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda module: None)
    monkeypatch.setattr(doctor, "_native_library", lambda: None)
    monkeypatch.setattr(doctor, "_onnxruntime", lambda: None)
    monkeypatch.setattr(doctor, "_nvrtc", lambda: None)
    monkeypatch.setattr(doctor, "find_driver", lambda: (None, "no driver"))
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    missing = inspect_machine()["missing"]
    things = {"native_library", "onnxruntime", "nvrtc", "driver", *OPTIONAL_MODULES}
    assert set(missing) == things
    assert all("install" in command for command in missing.values())


def table(monkeypatch, capsys, driver, jetson):
    monkeypatch.setattr(doctor, "find_driver", lambda: (driver, "" if driver else "none here"))
    monkeypatch.setattr(doctor, "find_jetson", lambda: jetson)
    command.run(argparse.Namespace(json=False))
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("cuda", "bindings", "row"),
    [
        (
            "12.6",
            "13.4.4",
            "13.4.4, which does not fit this driver; pip install 'cuda-bindings<13'",
        ),
        ("12.6", None, "not installed; for running .*: pip install 'cuda-bindings<13'"),
        ("12.6", "12.9.4", "12.9.4"),
        ("13.2", "12.9.4", "12.9.4"),
        ("13.2", None, r"not installed; .*: pip install 'vq4dit\[tensorrt-rtx\]'"),
    ],
)
def test_bindings_fit_the_driver(monkeypatch, capsys, cuda, bindings, row):
    versions = {"cuda.bindings": bindings}
    monkeypatch.setattr(doctor, "_version", lambda module: versions.get(module, "1"))
    out = table(monkeypatch, capsys, Driver(version="", cuda_version=cuda, gpus=(ORIN,)), None)
    assert re.search(rf"^cuda\.bindings +{row}$", out, re.M), out


def test_table_of_a_jetson(monkeypatch, capsys):
    driver = Driver(version="", cuda_version="12.6", gpus=(ORIN,))
    jetson = Jetson(model="NVIDIA Jetson Orin", release="36.4.3", power_mode="MAXN (0)")
    out = table(monkeypatch, capsys, driver, jetson)
    assert "Orin, sm_87, 8.0 GiB, shared with the CPU" in out
    assert "NVIDIA Jetson Orin, Linux for Tegra 36.4.3, power mode MAXN (0)" in out
    assert "version not told, CUDA 12.6" in out


@pytest.mark.parametrize(
    ("version", "library", "row"),
    [
        (None, False, None),
        ("11.4.0.106", False, "kernels go into the plan"),
        ("10.9.0.34", True, "kernels go into the plan; library {}"),
        ("unknown", False, "kernels go into the plan"),
        ("10.3.0", True, "library {}; give it to build as --plugin-library"),
        ("10.3.0", False, "NONE: TensorRT 10.3.0 needs our library; cmake -S plugins/tensorrt/cpp"),
    ],
)
def test_how_plugins_run(tmp_path, monkeypatch, capsys, version, library, row):
    path = tmp_path / "libvq4dit_tensorrt.so"
    path.write_bytes(b"code" if library else b"")
    monkeypatch.setenv(LIBRARY_VARIABLE, str(path if library else tmp_path / "gone.so"))
    versions = {"tensorrt": version}
    monkeypatch.setattr(doctor, "_version", lambda module: versions.get(module, "1"))
    out = table(monkeypatch, capsys, None, None)
    found = [line for line in out.splitlines() if line.startswith("TensorRT plugins")]
    assert len(found) == (row is not None)
    assert all(row.format(path) in line for line in found)
    missing = inspect_machine()["missing"]
    assert ("plugin_library" in missing) == (version == "10.3.0" and not library)


def test_table_without_a_gpu(monkeypatch, capsys):
    out = table(monkeypatch, capsys, None, None)
    assert "none (none here); sudo ubuntu-drivers install" in out and "Jetson  " not in out
    assert "target cpu" in out
