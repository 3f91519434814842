"""The calibration study on a tiny model: rows, resuming, failures, limits, the table."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from support_calibrate import QUICK, TINY, random_state

from vq4dit import demo
from vq4dit.calibrate.recipe import RECIPES
from vq4dit.errors import ArtifactError, ShapeError, Vq4ditError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

#: As many inputs as a group of round-to-nearest has, and the demonstration model's VAE and labels.
SMALL = replace(TINY, input_size=8, hidden_size=64, depth=1, num_classes=10)
SHORT = replace(
    QUICK,
    kmeans_iterations=1,
    soft_steps=2,
    batch_size=4,
    distill_steps=2,
    distill_batch_size=4,
    trajectory_steps=2,
)
OURS = "vq4dit-2bit-n2-seed0-steps2"


@pytest.fixture
def imported(monkeypatch):
    """Import a module of the study."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("calibration", "calibration_study", "cpu_gemm"):
            del sys.modules[name]


@pytest.fixture
def study(imported, monkeypatch, tmp_path):
    """Run the program with a tiny model, in one folder."""
    metadata = {
        "config": json.dumps(SMALL.to_dict()),
        "scaling_factor": "1.0",
        "class_names": json.dumps(demo.label_names()),
    }
    checkpoint = tmp_path / "dit.safetensors"
    save_file(random_state(SMALL), checkpoint, metadata=metadata)
    program = imported("calibration")
    monkeypatch.setitem(RECIPES, "vq4dit", SHORT)
    options = ["--num-images", "20", "--steps", "2", "3", "--threads", "1"]
    for option, name in (
        ("--checkpoint", "dit.safetensors"),
        ("--output", "results.json"),
        ("--markdown", "RESULTS.md"),
        ("--work", "work"),
    ):
        options += [option, str(tmp_path / name)]
    return lambda *more: program.main([*options, *more])


def results(tmp_path):
    return json.loads((tmp_path / "results.json").read_text())


def refuse(*args, **kwargs):
    raise AssertionError("this was to be left alone")


def test_rows_are_measured_once(study, imported, monkeypatch, tmp_path, capsys):
    study("--rows", OURS, "rtn*")
    document = results(tmp_path)
    assert [row["name"] for row in document["rows"]] == ["fp-steps2", "rtn-2bit-steps2", OURS]
    full, rounded, ours = document["rows"]
    assert (full["frechet_ratio"], full["relative_latent_error"], full["diversity"]) == (1, 0, 1)
    assert full["frechet_distance"] > 0
    assert rounded["bits_per_weight"] == 2.5
    assert rounded["relative_latent_error"] > 0
    assert ours["frechet_ratio"] == ours["frechet_distance"] / full["frechet_distance"]
    assert ours["bits_per_weight"] > 2
    assert set(ours["seconds_by_stage"]) == {"trajectories", "blocks", "distillation"}
    assert ours["seconds"] >= sum(ours["seconds_by_stage"].values()) - 0.2
    assert ours["peak_rss_bytes"] > 50 * 2**20
    assert {"processor", "versions"} <= set(document["machine"])
    assert {p.suffix for p in (tmp_path / "work").iterdir()} == {".npy", ".json", ".safetensors"}
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count("<!-- calibration -->") == text.count("<!-- /calibration -->") == 1
    assert f"| vq4dit | 2 | {ours['bits_per_weight']:.3f} | 2 | 0 |" in text

    models = imported("calibration_study.models")
    monkeypatch.setattr(models, "draw_with", refuse)
    monkeypatch.setattr(models, "calibrate_in_subprocess", refuse)
    study("--rows", OURS, "rtn*")
    assert results(tmp_path) == document

    capsys.readouterr()
    study("--list", "--rows", "vq4dit-2bit-n[12]-seed0-steps2")
    done, to_do = capsys.readouterr().out.splitlines()
    assert done.split() == [OURS, "done", "0", "s"]
    assert to_do.split()[1:3] == ["to", "do"]
    assert float(to_do.split()[3]) >= 0

    monkeypatch.setitem(RECIPES, "vq4dit", replace(SHORT, distill_steps=3))
    study("--list", "--rows", OURS)  # other settings: the row does not stand any more
    assert "to do" in capsys.readouterr().out


def test_a_failure_is_a_row(study, imported, monkeypatch, tmp_path):
    models = imported("calibration_study.models")
    full = {"frechet_distance": 1.0, "seconds": 0.0, "evaluation_seconds": 1.0}

    def numbers(self, row, full_precision):
        if row.recipe != "fp":
            raise Vq4ditError("the loss became nan")
        (tmp_path / "work" / "drawn").touch()
        return {**full, "frechet_ratio": 1.0, "bits_per_weight": 32.0, "diversity": 1.0,
                "relative_latent_error": 0.0, "label_accuracy": None}  # fmt: skip

    monkeypatch.setattr(models.Models, "numbers", numbers)
    monkeypatch.setattr(models.Models, "has_latents", lambda self, steps: True)
    study("--rows", "kmeans-1bit*")
    assert results(tmp_path)["rows"][1]["error"] == "Vq4ditError: the loss became nan"
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| kmeans | 1 | - | 1 | 0 | failed |" in text
    assert "- `kmeans-1bit-n1-seed0-steps2`: Vq4ditError: the loss became nan" in text

    # A second row would take 20 pictures x 3 steps x 1 / 40 s.
    before = results(tmp_path)
    study("--rows", "fp-steps3", "--limit-seconds", "1.4")
    assert results(tmp_path) == before
    study("--rows", "fp-steps3", "--limit-seconds", "1.6")
    assert len(results(tmp_path)["rows"]) == 3
    (tmp_path / "RESULTS.md").unlink()
    study("--report")
    assert "### 20 pictures, 3 DDIM steps" in (tmp_path / "RESULTS.md").read_text()


def test_a_calibration_that_dies_is_told(imported, tmp_path):
    worker = imported("calibration_study.worker")
    settings = {"bits": 2, "seed": 0, "threads": 1, "recipe": RECIPES["kmeans"].to_dict()}
    with pytest.raises(Vq4ditError, match="ended with code 1: .*ArtifactError: .*no such file"):
        worker.calibrate_in_subprocess(
            tmp_path / "none.safetensors", tmp_path / "x.vq.safetensors", settings
        )
    assert list(tmp_path.iterdir()) == []


def test_plan_has_every_row_once_and_main_rows_at_all_steps(imported):
    plan = imported("calibration_study.plan")
    rows = plan.plan([20, 50])
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert {row.recipe for row in rows if row.steps == 50} == {"fp", *plan.MAIN_RECIPES}
    ours = [row for row in rows if row.recipe == "vq4dit" and row.steps == 20]
    assert {row.candidates for row in ours if row.bits == 2} == {1, 2, 3}
    assert {row.bits for row in ours} == {1, 2, 3, 4}


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_round_to_nearest_keeps_levels_and_range(imported, bits):
    rtn = imported("calibration_study.round_to_nearest")
    weight = np.random.default_rng(bits).normal(size=(3, 128)).astype(np.float32)
    rounded = rtn.round_to_nearest(weight, bits)
    for group, source in zip(rounded.reshape(-1, 64), weight.reshape(-1, 64), strict=True):
        step = (source.max() - source.min()) / (2**bits - 1)
        assert 2 <= len(np.unique(group)) <= 2**bits
        # Half a step, and 2^-11 of the largest weight and of all steps from float16.
        assert np.abs(group - source).max() <= step / 2 + 3 * 2**-11 * np.abs(source).max()
    assert rtn.bits_per_weight(bits) == bits + 0.5
    np.testing.assert_array_equal(rtn.round_to_nearest(np.zeros((1, 64), "f4"), bits), 0)


def test_round_to_nearest_needs_whole_groups(imported):
    rtn = imported("calibration_study.round_to_nearest")
    with pytest.raises(ShapeError, match="a row has 65 weights"):
        rtn.round_to_nearest(np.zeros((1, 65), np.float32), 2)


def test_sections_of_others_stay(imported, tmp_path):
    report = imported("calibration_study.report")
    path = tmp_path / "RESULTS.md"
    report.replace_section(path, "a", "one")
    report.replace_section(path, "b", "two")
    report.replace_section(path, "a", "three")
    assert path.read_text() == (
        "# Measurements\n\n<!-- a -->\nthree\n<!-- /a -->\n\n<!-- b -->\ntwo\n<!-- /b -->\n"
    )
    path.write_text("<!-- /a --> <!-- a -->")
    with pytest.raises(ArtifactError, match="needed both"):
        report.replace_section(path, "a", "four")
