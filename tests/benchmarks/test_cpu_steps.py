"""The benchmarks of whole steps: what they count, what they write."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_importable(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def test_work_counts_linears_and_attention():
    scaling = importlib.import_module("scaling")
    config = replace(scaling.BASE, hidden_size=64, depth=2, num_heads=1, input_size=4)
    tokens, d = 4, 64
    per_row = tokens * (3 + 1 + 4 + 4) * d * d + 6 * d * d + 2 * tokens**2 * d
    assert scaling.work(config, 3) == 2 * 3 * 2 * per_row


def test_slope_is_one_where_time_follows_work():
    scaling = importlib.import_module("scaling")
    rows = [
        {"sweep": sweep, "multiply_adds": work, "cpu_min_ms": 3 * work**power}
        for sweep, power in (("batch", 1), ("tokens", 2))
        for work in (10, 20, 80)
    ]
    assert scaling.slopes(rows) == {"batch": 1.0, "tokens": 2.0}


@pytest.mark.ort
def test_a_small_model_is_measured():
    scaling = importlib.import_module("scaling")
    config = replace(scaling.BASE, hidden_size=64, depth=1, num_heads=1, input_size=4)
    found = scaling.measure(config, 2, repeats=2, accuracy="exact")
    assert 0 < found["cpu_min_ms"] <= found["cpu_median_ms"]


def test_every_implementation_of_the_step_gets_the_interface_of_the_model():
    implementations = importlib.import_module("xl_step.implementations")
    session = importlib.import_module("vq4dit.runtime.session")
    inputs = session.StepInputs(**implementations.step_inputs())
    assert inputs.latent.shape == inputs.noise.shape == (1, 4, 32, 32)
    np.testing.assert_array_equal(inputs.coefficients[0, :2], [0, 1])
    assert set(implementations.REFERENCES.values()) <= set(implementations.IMPLEMENTATIONS)


def test_the_report_of_the_step_compares_with_onnx_runtime():
    report = importlib.import_module("xl_step.report")
    row = {"threads": 1, "cpu_ms": 1, "min_ms": 1, "peak_rss_bytes": 3e8, "load_seconds": 1.25}
    document = {
        "machine": {"processor": "P", "processors": 2, "versions": {"numpy": "2"}},
        "rows": [
            {**row, "impl": "vq4dit-fast", "median_ms": 50.0, "rel_error": 2e-3},
            {**row, "impl": "ort-fp32", "median_ms": 125.0, "rel_error": None},
        ],
        "phases": {"load": {"seconds": 0.5, "peak_rss_bytes": 1e8, "rss_bytes": 9e7}},
    }
    text = report.render(document)
    assert "| vq4dit-fast | 50 | 1 | 2.50 | 1 | 300 | 1.25 | 2.0e-03 |" in text
    assert "| load | 0.50 | 100 | 90 |" in text
