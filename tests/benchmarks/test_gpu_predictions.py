"""The predictions' report: labels, ranges, and what the model says of the goals today."""

import pytest

from vq4dit.plugins.cuda.efficiency import ASSUMED, UNCALIBRATED
from vq4dit.plugins.cuda.gpu_table import GPUS


@pytest.fixture(scope="module")
def bench(import_benchmark):
    return import_benchmark("gpu_predictions")


def goal(bench, part):
    (found,) = [g for g in bench.GOALS if part in g.name]
    return found


@pytest.mark.parametrize("gpu", ["a100-40", "orin-agx", "thor"])
def test_ranges_hold_the_predicted_figure(bench, gpu):
    for one in bench.GOALS:
        row = bench.goal_row(one, GPUS[gpu], ASSUMED)
        assert row["low"] <= row["predicted"] <= row["high"]
        assert row["moved_most_by"] in bench.RANGES


def test_assumed_efficiencies_lie_within_their_ranges(bench):
    assert set(bench.RANGES) == set(ASSUMED.to_dict()) - {"calibration", "attention"}
    for name, (low, high) in bench.RANGES.items():
        assert low <= getattr(ASSUMED, name) <= high


def test_report_says_predicted_everywhere(bench, import_benchmark):
    text = import_benchmark("gpu_predictions_report").render(bench.predictions())
    assert UNCALIBRATED in text
    headings = [line for line in text.splitlines() if line.startswith("**") and "|" not in line]
    tables = [line for line in headings if not line.startswith(("**Question", "**All", "**The"))]
    assert tables and all("redicted" in line for line in tables)
    assert all(gpu in text for gpu in GPUS)


@pytest.mark.parametrize(
    ("part", "gpu"),
    [
        ("GEMM, M = 512, geo-mean", "a100-40"),
        ("GEMM, M = 512, geo-mean", "orin-agx"),
        ("M = 2, fp16 in 28", "a100-40"),
        ("M = 2, fp16 in 28", "orin-agx"),
        ("GEMV, M = 4", "a100-40"),
        ("GEMV, M = 4", "orin-agx"),
    ],
)
def test_goals_that_the_model_sees_reached(bench, part, gpu):
    one = goal(bench, part)
    assert one.ratio(GPUS[gpu], ASSUMED) >= one.wanted[gpu]
