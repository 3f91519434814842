"""The cache of plans: what a plan depends on, damaged and full caches."""

import logging
import os
from dataclasses import replace

import pytest

from vq4dit.cache_folder import CACHE_VARIABLE, cache_folder
from vq4dit.engines import plan_cache
from vq4dit.engines.plan_cache import fetch_plan, keep_plan, plan_key
from vq4dit.engines.plan_job import PlanJob

ENVIRONMENT = {"builder": "1.7.1", "sm": "sm_87"}


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    (tmp_path / "step.onnx").write_bytes(b"model")
    (tmp_path / "step.onnx.data").write_bytes(b"weights")
    return PlanJob(
        target="tensorrt", onnx_path=str(tmp_path / "step.onnx"), plan_path="p", profile={},
        compute_capabilities=("8.7",),
    )  # fmt: skip


def test_folder_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, "named")
    assert str(cache_folder()) == "named"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "vq4dit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().parts[-2:] == (".cache", "vq4dit")


def test_key_follows_bytes_options_and_environment_not_paths(tmp_path, job):
    keys = [plan_key(job, environment=ENVIRONMENT)]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("step.onnx", "step.onnx.data"):
        (moved / name).write_bytes((tmp_path / name).read_bytes())
    same = replace(job, onnx_path=str(moved / "step.onnx"), plan_path="q", timing_cache="t")
    assert plan_key(same, environment=dict(reversed(ENVIRONMENT.items()))) == keys[0]
    keys.append(plan_key(replace(job, version_compatible=True), environment=ENVIRONMENT))
    keys.append(plan_key(replace(job, profile={"x": ((1,), (1,), (2,))}), environment=ENVIRONMENT))
    keys.append(plan_key(job, environment=ENVIRONMENT | {"sm": "sm_80"}))
    library = tmp_path / "lib.so"
    library.write_bytes(b"code")
    keys.append(plan_key(replace(job, plugin_library=str(library)), environment=ENVIRONMENT))
    (tmp_path / "step.onnx.data").write_bytes(b"other weights")
    keys.append(plan_key(job, environment=ENVIRONMENT))
    assert len(set(keys)) == 6 and all(len(key) == 64 for key in keys)


def test_kept_plans_come_back(tmp_path, job):
    plan, out = tmp_path / "step.plan", tmp_path / "out.plan"
    plan.write_bytes(b"plan")
    assert not fetch_plan("k" * 64, out) and not out.exists()
    keep_plan("k" * 64, plan)
    assert fetch_plan("k" * 64, out) and out.read_bytes() == b"plan"


def test_a_damaged_plan_is_thrown_away(tmp_path, job, caplog):
    plan, out = tmp_path / "step.plan", tmp_path / "out.plan"
    plan.write_bytes(b"plan")
    keep_plan("key", plan)
    (cache_folder() / "key.plan").write_bytes(b"plam")
    with caplog.at_level(logging.WARNING):
        assert not fetch_plan("key", out)
    assert "damaged; building it again" in caplog.text
    assert list(cache_folder().iterdir()) == []


def test_oldest_plans_go_first(tmp_path, job, monkeypatch):
    monkeypatch.setattr(plan_cache, "MAX_CACHE_BYTES", 250)
    plan = tmp_path / "step.plan"
    plan.write_bytes(bytes(100))
    for age, key in enumerate("abcd"):
        keep_plan(key, plan)
        os.utime(cache_folder() / f"{key}.plan", (1000 + age, 1000 + age))
    assert sorted(p.name for p in cache_folder().glob("*.plan")) == ["c.plan", "d.plan"]
    assert not fetch_plan("a", tmp_path / "out")


def test_a_cache_that_cannot_be_written_is_told(tmp_path, job, monkeypatch, caplog):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING):
        keep_plan("key", tmp_path / "step.onnx")
    assert "is not kept for another time" in caplog.text
