"""From a results file of a (synthetic) GPU to efficiencies and a selection."""

import json
from dataclasses import replace

import pytest

from vq4dit.plugins.cuda.configuration import GEMM_TILES, KernelConfiguration
from vq4dit.plugins.cuda.efficiency import ASSUMED, Efficiencies
from vq4dit.plugins.cuda.gpu_table import GPUS
from vq4dit.plugins.cuda.measurement import measurements_from_rows
from vq4dit.plugins.cuda.selection_file import read_selection


@pytest.fixture(scope="module")
def bench(import_benchmark):
    return import_benchmark("gpu_calibrate")


def synthetic_rows(gpu, efficiencies):
    names = ["cublas", *(KernelConfiguration(kernel="gemm", tile=t).name for t in GEMM_TILES[:2])]
    rows = []
    for n, k in ((3456, 1152), (1152, 1152), (4608, 1152), (1152, 4608)):
        for name in names:
            row = {"gpu": "synthetic", "kernel": name, "m": 512, "n": n, "k": k,
                   "dtype": "float16", "microseconds": 1.0}  # fmt: skip
            (measurement,) = measurements_from_rows([row])
            predicted = measurement.predicted(gpu, efficiencies)
            rows.append(row | {"microseconds": predicted.microseconds})
    return rows


def test_results_become_efficiencies_and_a_selection(bench, tmp_path):
    gpu = GPUS["l4"]
    true = replace(ASSUMED, calibration="true", codebook_tensor=0.55, library_tensor=0.9)
    lines = bench.calibrate(gpu, synthetic_rows(gpu, true), "synthetic L4", tmp_path)
    assert lines[0].startswith("L4 24 GB") and "12 launches, 4 shapes selected" in lines[0]
    values = json.loads((tmp_path / "l4.efficiencies.json").read_text())
    fitted = Efficiencies.from_dict(values)
    assert fitted.calibration == "synthetic L4"
    assert fitted.codebook_tensor == pytest.approx(0.55, abs=0.06)
    selection = read_selection(tmp_path / "l4.selection.json")
    assert (selection.gpu, selection.calibration) == ("l4", "synthetic L4")
    assert {(e.n, e.k) for e in selection.entries} == {
        (3456, 1152), (1152, 1152), (4608, 1152), (1152, 4608)
    }  # fmt: skip
