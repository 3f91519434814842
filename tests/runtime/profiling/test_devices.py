"""The management library of NVIDIA's driver, played by a library with the same functions."""

import ctypes
import shutil
import subprocess

import pytest

from vq4dit.runtime.profiling.devices import NvmlDevice, nvml_devices
from vq4dit.runtime.profiling.power import NvmlSource

_SOURCE = """
#include <string.h>
typedef void* Device;
typedef struct { unsigned long long total, free, used; } Memory;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned* count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, Device* d) {
  *d = (Device)(0x7f0000001000ULL + i);  /* more than 32 bits: a cut-off handle is found out */
  return i < 2 ? 0 : 2;
}
static unsigned of(Device d) { return (unsigned)((unsigned long long)d - 0x7f0000001000ULL); }
int nvmlDeviceGetName(Device d, char* name, unsigned length) {
  strncpy(name, of(d) ? "Old" : "New", length); return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(Device d, unsigned long long* mj) {
  *mj = 5000000123ULL; return of(d) == 0 ? 0 : 3;  /* only Volta and newer */
}
int nvmlDeviceGetPowerUsage(Device d, unsigned* mw) { *mw = 61500 + of(d); return 0; }
int nvmlDeviceGetMemoryInfo(Device d, Memory* m) {
  m->total = 1ULL << 36; m->free = 1; m->used = 3ULL << 30; return of(d) < 2 ? 0 : 2;
}
int nvmlDeviceGetClockInfo(Device d, unsigned kind, unsigned* mhz) {
  *mhz = 1000 + kind; return kind == 1 ? 0 : 3;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make the library with")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(_SOURCE)
    target = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", str(folder / "nvml.c"), "-o", str(target)], check=True
    )
    return str(target)


def test_readings(library):
    new, old = nvml_devices(library)
    assert (new.name, old.name) == ("New", "Old")
    assert new.joules() == pytest.approx(5000000.123)
    assert old.joules() is None and old.watts() == pytest.approx(61.501)
    assert new.memory_used() == 3 << 30
    assert new.clocks_mhz() == {"sm": 1001}


def test_sources_take_the_counter_where_there_is_one(library):
    new, old = (NvmlSource(device) for device in nvml_devices(library))
    assert new.is_counter and new.read() == pytest.approx({"New (0)": 5000000.123})
    assert not old.is_counter and old.read() == pytest.approx({"Old (1)": 61.501})


def test_a_device_that_is_not_there(library):
    with pytest.raises(OSError, match="no handle of device 7: status 2"):
        NvmlDevice(ctypes.CDLL(library), 7)


def test_no_driver_no_devices():
    assert nvml_devices("libnvidia-ml-is-not-here.so.1") == []
