"""The roof, and that the machine's is measured."""

import pytest

from vq4dit.runtime.profiling.peaks import Peaks, measure_peaks, usable_processors


def test_roof_has_a_slope_and_a_top():
    peaks = Peaks(threads=1, gflops=100.0, gbytes_per_s=20.0)
    assert peaks.ridge == 5.0
    assert peaks.attainable_gflops(1.0) == 20.0
    assert peaks.attainable_gflops(5.0) == peaks.attainable_gflops(50.0) == 100.0
    assert peaks.to_dict() == {
        "threads": 1, "gflops": 100.0, "gbytes_per_s": 20.0, "ridge_flops_per_byte": 5.0
    }  # fmt: skip


@pytest.mark.ort
def test_measured_on_this_machine():
    peaks = measure_peaks(1)
    assert peaks.threads == 1
    assert 0.05 < peaks.gflops < 1e5
    assert 0.05 < peaks.gbytes_per_s < 1e5


def test_at_least_one_processor():
    assert usable_processors() >= 1
