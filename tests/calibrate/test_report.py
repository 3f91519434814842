"""The picture of a calibration and its totals by kind of linear."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from tolerances import FLOAT64_METRIC

from vq4dit.calibrate import report
from vq4dit.calibrate.layer_kinds import kind_of, totals_by_kind
from vq4dit.calibrate.summary import CalibrationSummary, model_name, peak_rss_bytes
from vq4dit.errors import BackendUnavailable
from vq4dit.model_config import PRESETS, ModelConfig

LINEARS = ("adaLN_modulation.1", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
NAMES = [f"blocks.{block}.{linear}" for block in range(2) for linear in LINEARS]
SUMMARY = CalibrationSummary(
    recipe="vq4dit",
    bits=2,
    seed=0,
    seconds={"blocks": 2.0, "distillation": 1.0},
    peak_rss_bytes=300 * 2**20,
    weight_error={name: 0.1 + 0.01 * i for i, name in enumerate(NAMES)},
    model="DiT-S/2",
    layer_bytes={name: 100 * (1 + i) for i, name in enumerate(NAMES)},
    bits_per_weight={name: 2.0 + 0.1 * i for i, name in enumerate(NAMES)},
    soft=[
        {"block": block, "feature_loss": 0.9**step, "ratio_loss": 0.1, "frozen_share": step / 9}
        for block in range(2)
        for step in range(10)
    ],
    distill=[1 / (1 + step) for step in range(20)],
)


def written(tmp_path, summary):
    path = tmp_path / "calibration.png"
    report.write_report(path, summary)
    assert [p.name for p in tmp_path.iterdir()] == ["calibration.png"]
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        return picture.size


def test_a_panel_for_each_thing_that_happened(tmp_path):
    width, height = written(tmp_path, SUMMARY)
    assert width > height > 500
    one_row = written(tmp_path, replace(SUMMARY, soft=[]))  # distillation and weights
    assert one_row[0] == width
    assert one_row[1] < 0.6 * height
    alone = written(tmp_path, replace(SUMMARY, soft=[], distill=[]))  # plain K-Means
    assert alone[0] == width // 2
    assert alone[1] == one_row[1]


def test_many_blocks_and_steps_of_the_whole_model_are_drawn(tmp_path):
    many = [{**row, "block": b} for b in range(28) for row in SUMMARY.soft[:10]]
    assert written(tmp_path, replace(SUMMARY, soft=many))[0] > 1000
    whole = [{k: v for k, v in row.items() if k != "block"} for row in SUMMARY.soft]
    assert written(tmp_path, replace(SUMMARY, soft=whole))[0] > 1000


def test_title_says_model_bits_and_recipe():
    weights = sum(8 * b / SUMMARY.bits_per_weight[n] for n, b in SUMMARY.layer_bytes.items())
    bits = 8 * sum(SUMMARY.layer_bytes.values()) / weights
    assert report.title(SUMMARY) == (f"DiT-S/2: 2 bits ({bits:.3f} with codebooks), recipe vq4dit")


def test_running_mean_starts_with_what_is_there():
    assert report.running_mean([4.0, 2.0, 6.0, 1.0], 2) == [4.0, 3.0, 4.0, 3.5]


def test_totals_add_up_by_kind():
    totals = totals_by_kind(SUMMARY)
    assert [t.kind for t in totals] == ["adaLN", "qkv", "proj", "fc1", "fc2", "all"]
    assert totals[-1].num_bytes == sum(t.num_bytes for t in totals[:-1]) == 5500
    assert totals[-1].num_layers == 10
    first, second = NAMES[0], NAMES[5]
    assert totals[0].weight_error == pytest.approx(0.125, rel=FLOAT64_METRIC)
    weights = sum(8 * SUMMARY.layer_bytes[n] / SUMMARY.bits_per_weight[n] for n in (first, second))
    assert totals[0].bits_per_weight == pytest.approx(8 * 700 / weights, rel=FLOAT64_METRIC)
    nothing = replace(SUMMARY, layer_bytes={}, bits_per_weight={}, weight_error={})
    assert totals_by_kind(nothing) == []


def test_names_of_kinds_and_models():
    assert kind_of("blocks.12.mlp.fc1") == "fc1"
    assert kind_of("blocks.0.mlp.gate") == "mlp.gate"
    config = PRESETS["DiT-XL/2"].to_dict()
    assert model_name(ModelConfig.from_dict({**config, "input_size": 64})) == "DiT-XL/2"
    other = ModelConfig.from_dict({**config, "depth": 3})
    assert model_name(other) == "DiT 3 x 1152, patch 2"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")
def test_peak_memory_is_this_processs_own(monkeypatch):
    parents = SimpleNamespace(ru_maxrss=10**9)  # KiB; what a child of a large process is told
    monkeypatch.setattr(resource, "getrusage", lambda who: parents)
    assert 0 < peak_rss_bytes() < 10**9 * 1024
    monkeypatch.setattr(Path, "read_text", lambda path: "")
    assert peak_rss_bytes() == 10**9 * 1024


def test_without_matplotlib_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendUnavailable, match=r"vq4dit\[calibrate\]"):
        report.write_report(tmp_path / "x.png", SUMMARY)
    assert not list(tmp_path.iterdir())


def test_importing_the_report_does_not_import_matplotlib():
    code = "import sys, vq4dit.calibrate.report as r; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
