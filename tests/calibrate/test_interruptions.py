"""Killed, starved of disk or diverged: what is left is whole and ends in the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import support_interrupted
import torch
from support_calibrate import save_checkpoint
from support_interrupted import QUICK

from vq4dit import atomic_file
from vq4dit.calibrate.artifact import Artifact, open_safetensors
from vq4dit.calibrate.run import calibrate
from vq4dit.calibrate.workspace import Workspace
from vq4dit.errors import ArtifactError, Vq4ditError


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "dit.safetensors")


class Runs:
    """Calibrations in processes of their own, one after the other, each going on with the last."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ready(self) -> None:
        """Wait until the artifact without interruptions is there."""
        assert self.line() == "ready"

    def start(self, limit: int = 0) -> int:
        """Start the next one, with files of at most so many bytes; its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{limit}\n")
        self._process.stdin.flush()
        return int(self.line())

    def line(self) -> str:
        """What it tells next."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def lines(self, count: int = sys.maxsize) -> list[str]:
        """The next lines, at most until it ends."""
        lines = [self.line()]
        while len(lines) < count and lines[-1] and not lines[-1].startswith("end "):
            lines.append(self.line())
        return lines


def whole_beside(output: Path) -> Path:
    """Where the artifact without interruptions is."""
    return output.with_name("whole.vq.safetensors")


@contextmanager
def runs(checkpoint: Path, output: Path, recipe: str) -> Iterator[Runs]:
    """Runs into `output`; what they shall end in is made first, beside it."""
    paths = [str(path) for path in (checkpoint, output, whole_beside(output))]
    command = [sys.executable, support_interrupted.__file__, *paths, recipe]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        yield Runs(process)
        process.stdin.close()
    assert process.returncode == 0


@pytest.mark.parametrize(("recipe", "seed"), [("vq4dit", 11), ("reference", 13)])
def test_kill_at_any_moment(checkpoint, tmp_path, recipe, seed):
    """SIGKILL after a random piece of work and a random moment more: between units and within."""
    print("seed", seed)
    rng = random.Random(seed)
    output = tmp_path / "killed.vq.safetensors"
    killed_in = []
    with runs(checkpoint, output, recipe) as calibrations:
        calibrations.ready()
        while len(killed_in) < 6:
            child = calibrations.start()
            told = calibrations.lines(rng.randint(1, 24 if recipe == "vq4dit" else 14))
            if told[-1] == "end 0":
                break
            time.sleep(rng.choice([0.0, rng.uniform(0, 0.01)]))
            os.kill(child, signal.SIGKILL)
            if calibrations.lines()[-1] == "end 0":  # it was faster
                break
            assert not output.exists()
            killed_in.append(told[-1].split()[0])
        else:
            calibrations.start()
            assert calibrations.lines()[-1] == "end 0"
    print("killed in", killed_in)
    assert set(killed_in) <= {"trajectories", "blocks", "ratios", "distillation"}
    assert len(killed_in) >= 4
    assert len(set(killed_in)) >= 2
    assert output.read_bytes() == whole_beside(output).read_bytes()
    assert not (tmp_path / f".{output.name}.partial").exists()


@pytest.mark.parametrize(
    ("recipe", "limits", "files"),
    [
        (
            "vq4dit",
            [100, 1000, 20_000],
            ["settings.json", "block-000.safetensors", "distillation.safetensors"],
        ),
        ("kmeans", [-1], ["starved.vq.safetensors"]),
    ],
)
def test_a_full_disk_stops_it_and_more_room_lets_it_go_on(
    checkpoint, tmp_path, recipe, limits, files
):
    """A limit on file sizes, a little more each time; -1: one byte less than the artifact."""
    output = tmp_path / "starved.vq.safetensors"
    folder = tmp_path / f".{output.name}.partial"
    with runs(checkpoint, output, recipe) as calibrations:
        calibrations.ready()
        for limit, file in zip(limits, files, strict=True):
            calibrations.start(limit if limit > 0 else whole_beside(output).stat().st_size - 1)
            *_, error, end = calibrations.lines()
            assert end == "end 1"
            assert error.startswith("error ")
            assert Path(error.split(":")[0]).name == file
            assert "could not be written" in error
            assert "--resume" in error
            assert not output.exists()
            for unit in folder.glob("*.safetensors"):
                assert list(open_safetensors(unit).keys())  # it is whole
            assert not [p for p in (*folder.iterdir(), *tmp_path.iterdir()) if ".tmp" in p.name]
        calibrations.start()
        assert calibrations.lines()[-1] == "end 0"
    assert output.read_bytes() == whole_beside(output).read_bytes()


def test_disk_full_keeps_finished_units(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "x.vq.safetensors"
    calls = []

    def full_at_the_third(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic_file.os, "fsync", full_at_the_third)
        with pytest.raises(ArtifactError, match="No space left.*--resume"):
            calibrate(checkpoint, path, recipe=QUICK["vq4dit"])
    folder = tmp_path / ".x.vq.safetensors.partial"
    assert sorted(p.name for p in folder.iterdir()) == ["block-000.safetensors", "settings.json"]
    assert not path.exists()
    calibrate(checkpoint, path, recipe=QUICK["vq4dit"], resume=True)
    Artifact(path)


def test_a_diverged_distillation_keeps_the_blocks_for_a_smaller_rate(checkpoint, tmp_path):
    path, whole = tmp_path / "x.vq.safetensors", tmp_path / "whole.vq.safetensors"
    wild = replace(QUICK["vq4dit"], distill_lr=1e30)
    with pytest.raises(Vq4ditError, match="loss of the distillation became (nan|inf).*distill_lr"):
        calibrate(checkpoint, path, recipe=wild)
    assert not path.exists()
    stages = []
    calibrate(
        checkpoint,
        path,
        recipe=QUICK["vq4dit"],
        resume=True,
        progress=lambda stage, done, total, **values: stages.append(stage),
    )
    assert stages.count("blocks") == 2  # both were there
    calibrate(checkpoint, whole, recipe=QUICK["vq4dit"])
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_state_that_is_not_finite_is_never_stored(tmp_path, value):
    workspace = Workspace(tmp_path / "x.vq.safetensors", {"recipe": {}}, resume=False)
    workspace.save_tensors("unit", {"a": torch.ones(2)})
    with pytest.raises(Vq4ditError, match="unit: b became NaN or infinite .1 of 2 tensors."):
        workspace.save_tensors("unit", {"a": torch.zeros(2), "b": torch.tensor([1.0, value])})
    assert torch.equal(workspace.load_tensors("unit")["a"], torch.ones(2))


def test_diverging_ratios_stop_with_a_clear_error(checkpoint, tmp_path):
    path = tmp_path / "x.vq.safetensors"
    wild = replace(QUICK["vq4dit"], codebook_lr=1e30)
    with pytest.raises(Vq4ditError, match=r"loss of the open ratios became (nan|inf).*codebook_lr"):
        calibrate(checkpoint, path, recipe=wild)
    assert not path.exists()
    calibrate(checkpoint, path, recipe=QUICK["vq4dit"])  # starts anew
    Artifact(path)


def test_codewords_beyond_float16_are_not_written(checkpoint, tmp_path):
    """Finite in training, infinite as stored: only the last step makes them."""
    path = tmp_path / "x.vq.safetensors"
    wild = replace(QUICK["vq4dit"], distill_steps=1, distill_lr=1e8)
    with pytest.raises(ArtifactError, match=r"codebook holds inf, needed at most 65504.*--resume"):
        calibrate(checkpoint, path, recipe=wild)
    assert not path.exists()
