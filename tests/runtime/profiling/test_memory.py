"""Memory of a process, and of an engine's phases in a process of its own."""

from dataclasses import asdict

import pytest
from tiny_engine import write_tiny_engine

from vq4dit.errors import Vq4ditError
from vq4dit.runtime.profiling.memory import PHASES, memory_by_phase, read_memory, reset_peak

OPTIONS = {"batch": 2, "threads": 1, "accuracy": "fast", "providers": None}


def test_fields_of_a_status_file(tmp_path):
    (tmp_path / "status").write_text(
        "Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nRssAnon:\t     700 kB\n"
        "RssFile:\t     324 kB\nThreads:\t1\n"
    )
    assert asdict(read_memory(tmp_path)) == {
        "rss_bytes": 1 << 20, "peak_bytes": 2 << 20, "anonymous_bytes": 700 << 10,
        "file_bytes": 324 << 10,
    }  # fmt: skip


def test_systems_without_proc(tmp_path):
    assert read_memory(tmp_path) is None
    assert not reset_peak(tmp_path / "missing")


def test_reset_writes_what_the_kernel_wants(tmp_path):
    assert reset_peak(tmp_path)
    assert (tmp_path / "clear_refs").read_text() == "5"


@pytest.mark.ort
def test_phases_of_a_real_engine(tmp_path):
    write_tiny_engine(tmp_path / "engine")
    found = memory_by_phase(tmp_path / "engine", OPTIONS, timeout=120.0)
    if read_memory() is None:
        pytest.skip("this system has no /proc")
    assert [phase["phase"] for phase in found["phases"]] == list(PHASES)
    for phase in found["phases"]:
        assert 0 < phase["anonymous_bytes"] <= phase["rss_bytes"] <= 1.1 * phase["peak_bytes"]
        assert phase["seconds"] >= 0
    assert found["phases"][1]["rss_bytes"] >= found["phases"][0]["rss_bytes"]


def test_a_failing_process_is_quoted(tmp_path):
    with pytest.raises(Vq4ditError, match="process that measures memory failed.*no manifest"):
        memory_by_phase(tmp_path, OPTIONS, timeout=120.0)


def test_a_hanging_process_is_ended(tmp_path):
    with pytest.raises(Vq4ditError, match="profile with --no-memory"):
        memory_by_phase(tmp_path, OPTIONS, timeout=0.01)
