"""The estimate of a builder's memory, and its refusals."""

import pytest

from vq4dit.engines import plan_memory
from vq4dit.engines.plan_memory import available_host_bytes, require_builder_memory
from vq4dit.errors import BackendUnavailable
from vq4dit.runtime.gpu import Gpu

GIB = 1 << 30
A100 = Gpu(name="A100", compute_capability="8.0", memory_bytes=40 * GIB, is_integrated=False)
ORIN = Gpu(name="Orin", compute_capability="8.7", memory_bytes=8 * GIB, is_integrated=True)


@pytest.fixture
def free(monkeypatch):
    def set_free(gib):
        monkeypatch.setattr(plan_memory, "available_host_bytes", lambda: int(gib * GIB))

    return set_free


def test_what_fits_passes(free):
    free(8)
    require_builder_memory(GIB, gpu=None, workspace_bytes=GIB)
    require_builder_memory(GIB, gpu=A100, workspace_bytes=GIB)
    require_builder_memory(GIB // 4, gpu=ORIN, workspace_bytes=GIB)


def test_too_little_memory_is_told_with_the_numbers(free):
    free(2)
    with pytest.raises(BackendUnavailable, match=r"about \d\.\d GiB of memory, 2\.0 GiB are free"):
        require_builder_memory(GIB, gpu=None, workspace_bytes=GIB)


def test_an_integrated_gpu_takes_from_the_same_memory(free):
    free(6)
    require_builder_memory(GIB, gpu=A100, workspace_bytes=GIB)
    with pytest.raises(BackendUnavailable, match="6.0 GiB are free"):
        require_builder_memory(GIB, gpu=ORIN, workspace_bytes=GIB)


def test_a_small_gpu_is_refused(free):
    free(64)
    with pytest.raises(BackendUnavailable, match=r"GPU memory, A100 has 40\.0 GiB; build on a lar"):
        require_builder_memory(39 * GIB, gpu=A100, workspace_bytes=2 * GIB)


def test_available_memory(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    monkeypatch.setattr(plan_memory, "_MEMINFO", meminfo)
    assert available_host_bytes() == 2 << 20
    monkeypatch.setattr(plan_memory, "_MEMINFO", tmp_path / "none")
    assert available_host_bytes() is None
    require_builder_memory(1 << 40, gpu=None, workspace_bytes=0)  # not known: try


def test_a_decoded_weight_needs_memory_on_the_gpu(free):
    free(256)
    fits = 40 * GIB - plan_memory.GPU_BASE_BYTES - GIB
    require_builder_memory(fits, gpu=A100, workspace_bytes=GIB)
    with pytest.raises(BackendUnavailable, match=r"of GPU memory, A100 has 40\.0 GiB"):
        require_builder_memory(fits, gpu=A100, workspace_bytes=GIB, decoded_bytes=1)
