"""The driver's library as vq4dit asks it; a stand-in compiled from C answers."""

import shutil
import subprocess

import pytest

from vq4dit.runtime import gpu
from vq4dit.runtime.gpu import Gpu, find_driver

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

_SOURCE = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuGetErrorName(int error, const char** name) { *name = "CUDA_ERROR_NO_DEVICE"; return 0; }
int cuDriverGetVersion(int* version) { *version = 13020; return 0; }
int cuDeviceGetCount(int* count) { *count = COUNT; return 0; }
int cuDeviceGetName(char* name, int size, int device) {
  strncpy(name, device ? "Other" : "Orin", size); return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = 8ull << 30; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18; return 0;
}
"""


def library(folder, *, init=0, count=2):
    path = folder / f"libcuda{init}{count}.so"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    command += [f"-DINIT={init}", f"-DCOUNT={count}"]
    subprocess.run(command, input=_SOURCE, text=True, check=True)
    return str(path)


@needs_compiler
def test_driver_and_gpus(tmp_path, monkeypatch):
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep\n")
    monkeypatch.setattr(gpu, "_VERSION_FILE", version)
    driver, reason = find_driver([library(tmp_path)])
    assert (driver.version, driver.cuda_version, reason) == ("580.95.05", "13.2", "")
    assert [g.name for g in driver.gpus] == ["Orin", "Other"]
    first = driver.gpus[0]
    assert first == Gpu(
        name="Orin", compute_capability="8.7", memory_bytes=8 << 30, is_integrated=True
    )
    assert first.sm == "sm_87"


@needs_compiler
def test_a_driver_that_does_not_start(tmp_path):
    driver, reason = find_driver([library(tmp_path, init=100)])
    assert driver is None and reason.endswith("does not start (error 100 CUDA_ERROR_NO_DEVICE)")


@needs_compiler
def test_a_driver_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "_VERSION_FILE", tmp_path / "none")
    driver, reason = find_driver([library(tmp_path, count=0)])
    assert driver.gpus == () and driver.version == "" and "finds no GPU" in reason


def test_no_driver():
    assert find_driver(["libno_such_driver.so.1"]) == (
        None, "the NVIDIA driver's library libno_such_driver.so.1 is not installed",
    )  # fmt: skip
