"""Calibration on a cluster of two processes of this machine: the same bytes as in one process."""

from __future__ import annotations

import json
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import support_tasks
import torch
from support_calibrate import QUICK, TINY, save_checkpoint
from support_tasks import Number

from vq4dit.calibrate.checkpoint import Checkpoint, CheckpointOptions
from vq4dit.calibrate.compute import Compute
from vq4dit.calibrate.executor import InProcess
from vq4dit.calibrate.ray_executor import RayExecutor
from vq4dit.calibrate.recipe import RECIPES
from vq4dit.calibrate.run import calibrate
from vq4dit.cli import main
from vq4dit.errors import ArtifactError, BackendUnavailable, OptionError, ShapeError, Vq4ditError

ray = pytest.importorskip("ray", reason="ray is not installed")

DEEP = replace(TINY, depth=3)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two worker processes, no dashboard, nothing sent anywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", str(Path(support_tasks.__file__).parent))
        with RayExecutor("local", Compute(threads=1), workers=2):
            yield
        assert not ray.is_initialized()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("ray") / "dit.safetensors", DEEP)


@pytest.fixture
def executor():
    with RayExecutor("local", Compute(threads=1)) as executor:
        yield executor


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def numbers(count, folder=None):
    return [Number(name=f"number {i}", value=i, folder=folder) for i in range(count)]


def test_results_and_reports_are_those_of_one_process(executor):
    def outcome(executor):
        told = []
        results = executor.run(
            support_tasks.square, numbers(5), lambda name, event: told.append((name, event))
        )
        return dict(results), {name: [e for n, e in told if n == name] for name, _ in told}

    assert executor.num_workers == 2
    assert outcome(executor) == outcome(InProcess())


def test_tasks_are_taken_not_long_before_they_are_done(executor):
    taken = []
    tasks = (taken.append(task) or task for task in numbers(20))
    next(executor.run(support_tasks.square, tasks))
    assert len(taken) == executor.num_workers + 1


def test_errors_of_the_work_arrive_as_they_are(executor):
    with pytest.raises(ShapeError, match="three is odd"):
        list(executor.run(support_tasks.refuse_three, numbers(5)))


def test_a_task_whose_process_dies_is_done_by_another(executor, tmp_path):
    found = dict(executor.run(support_tasks.die_once, numbers(2, tmp_path)))
    assert set(found) == {"number 0", "number 1"}
    assert os.getpid() not in found.values()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_task_that_kills_every_process_is_named(executor, tmp_path, monkeypatch):
    monkeypatch.setattr("vq4dit.calibrate.ray_executor._RETRIES", 1)
    with pytest.raises(Vq4ditError, match=r"number 0: its process died 2 times .*--resume"):
        list(executor.run(support_tasks.die_always, numbers(1, tmp_path)))
    assert (tmp_path / "deaths").read_text() == "xx"


@pytest.mark.parametrize(
    "options",
    [
        {"recipe": replace(RECIPES["kmeans"], kmeans_iterations=2)},
        {"recipe": QUICK},
        {"recipe": QUICK, "independent_blocks": True},
        {
            "recipe": replace(QUICK, distill_steps=0),
            "target_bits": 8.2,
            "keep": [("*.mlp.*", "2"), ("*.attn.*", "2")],  # leaves three linears to be measured
        },
    ],
    ids=["kmeans", "blocks in turn", "independent blocks", "target"],
)
def test_the_bytes_do_not_depend_on_who_works(checkpoint, tmp_path, options):
    alone, shared = tmp_path / "alone.vq.safetensors", tmp_path / "shared.vq.safetensors"
    first = calibrate(checkpoint, alone, bits=3, **options)
    second = calibrate(checkpoint, shared, bits=3, ray="local", **options)
    assert alone.read_bytes() == shared.read_bytes()
    assert first.soft == second.soft
    assert first.distill == second.distill


def test_the_command_prints_its_json_alone(checkpoint, tmp_path, capsys):
    path = tmp_path / "x.vq.safetensors"
    arguments = ["calibrate", str(checkpoint), "-o", str(path), "--method", "kmeans", "--quiet"]
    assert main([*arguments, "--json", "--threads", "1", "--ray", "local"]) == 0
    assert json.loads(capsys.readouterr().out)["total_bytes"] == path.stat().st_size


class _Stop(Exception):
    pass


def test_goes_on_where_a_run_on_the_cluster_was_stopped(checkpoint, tmp_path):
    def stop_after_a_block(stage, done, total, **values):
        if stage == "blocks" and done >= 2 * QUICK.soft_steps:
            raise _Stop

    path, alone = tmp_path / "x.vq.safetensors", tmp_path / "alone.vq.safetensors"
    options = {"bits": 3, "recipe": QUICK, "independent_blocks": True}
    with pytest.raises(_Stop):
        calibrate(checkpoint, path, ray="local", progress=stop_after_a_block, **options)
    units = {p.name for p in (tmp_path / ".x.vq.safetensors.partial").glob("block-*")}
    assert 1 <= len(units) < DEEP.depth
    resumed = calibrate(checkpoint, path, ray="local", resume=True, **options)
    whole = calibrate(checkpoint, alone, **options)
    assert path.read_bytes() == alone.read_bytes()
    assert resumed.soft == whole.soft


def test_a_cluster_too_small_for_one_task_is_refused():
    with pytest.raises(OptionError, match="has 2 CPUs and 0 GPUs; one task needs 3 CPUs"):
        RayExecutor("local", Compute(threads=3))
    assert ray.is_initialized()  # it was there before


def test_a_checkpoint_travels_as_its_path(checkpoint, tmp_path):
    source = Checkpoint(checkpoint, CheckpointOptions(label_names=("a", "b", "c")))
    sent = pickle.dumps(source)
    assert len(sent) < 1000
    there = pickle.loads(sent)
    assert there.config == source.config
    assert there.label_names == ("a", "b", "c")
    assert torch.equal(there.torch_tensor("pos_embed"), source.torch_tensor("pos_embed"))
    moved = Checkpoint(save_checkpoint(tmp_path / "other.safetensors", DEEP))
    sent = pickle.dumps(moved)
    save_checkpoint(tmp_path / "other.safetensors", DEEP, seed=1)
    with pytest.raises(ArtifactError, match="all machines need the same checkpoint"):
        pickle.loads(sent)


def test_workers_are_those_of_a_local_cluster(checkpoint, tmp_path):
    with pytest.raises(OptionError, match="2 workers need Ray; give --ray local"):
        calibrate(checkpoint, tmp_path / "x.vq.safetensors", workers=2)
    with pytest.raises(OptionError, match="cluster at 'auto' has its own"):
        RayExecutor("auto", Compute(threads=1), workers=2)


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendUnavailable, match=r"vq4dit\[distributed\]"):
        RayExecutor("local", Compute(threads=1))
