"""Measurements of a GPU calibrate the model, and overwrite its selection: on synthetic GPUs."""

import json
from dataclasses import replace

import numpy as np
import pytest

from vq4dit.errors import ArtifactError, OptionError
from vq4dit.plugins.cuda.calibration import (
    fit_efficiencies,
    held_out_errors,
    relative_errors,
)
from vq4dit.plugins.cuda.configuration import (
    GEMM_TILES,
    GEMV_TILES,
    WGMMA_TILES,
    KernelConfiguration,
)
from vq4dit.plugins.cuda.efficiency import ASSUMED, UNCALIBRATED, Efficiencies
from vq4dit.plugins.cuda.gpu_table import GPUS, gpu_of_device
from vq4dit.plugins.cuda.launch_table import (
    CODEBOOK_GEMMS,
    CODEBOOK_GEMVS,
    CODEBOOK_WGMMAS,
    tile_of_entry,
)
from vq4dit.plugins.cuda.measurement import measurements_from_rows
from vq4dit.plugins.cuda.selection_file import (
    read_selection,
    select_kernel,
    selection_from_rows,
    write_selection,
)

GEMMS = [KernelConfiguration(kernel="gemm", tile=tile).name for tile in GEMM_TILES]
GEMVS = [KernelConfiguration(kernel="gemv", tile=tile).name for tile in GEMV_TILES]
WGMMAS = [KernelConfiguration(kernel="wgmma", tile=tile).name for tile in WGMMA_TILES]
SHAPES = ((3456, 1152), (1152, 1152), (4608, 1152), (1152, 4608), (6912, 1152))


def row(kernel, m, n, k, microseconds=1.0, **more):
    return {
        "gpu": "NVIDIA A100-SXM4-40GB", "kernel": kernel, "m": m, "n": n, "k": k,
        "dtype": "float16", "microseconds": microseconds, **more,
    }  # fmt: skip


def synthetic_rows(gpu, efficiencies, seed, noise=0.03):
    """What a GPU with these efficiencies would measure."""
    rng = np.random.default_rng(seed)
    rows = []
    for n, k in SHAPES:
        for m in (2, 64, 4096):
            for kernel in ("cublas", *GEMMS[::2], *(GEMVS[:1] if m <= 8 else [])):
                (measurement,) = measurements_from_rows([row(kernel, m, n, k)])
                found = measurement.predicted(gpu, efficiencies)
                if found is not None:
                    factor = rng.uniform(1 - noise, 1 + noise)
                    rows.append(row(kernel, m, n, k, found.microseconds * factor))
    return rows


@pytest.mark.parametrize(("name", "seed"), [("a100-40", 0), ("orin-agx", 1)])
def test_efficiencies_of_a_synthetic_gpu_are_found(name, seed):
    gpu = GPUS[name]
    true = replace(
        ASSUMED, calibration="true", library_tensor=0.9, codebook_tensor=0.6, dram=0.75, launch=1.5
    )
    measured = measurements_from_rows(synthetic_rows(gpu, true, seed))
    fitted = fit_efficiencies(gpu, measured, "synthetic, 2026")
    assert fitted.calibration == "synthetic, 2026"
    assert np.median(np.abs(relative_errors(gpu, measured, fitted))) < 0.03
    assert np.median(np.abs(relative_errors(gpu, measured, ASSUMED))) > 0.05
    assert fitted.library_tensor > ASSUMED.library_tensor
    assert fitted.codebook_tensor < ASSUMED.codebook_tensor - 0.1
    assert fitted.dram < ASSUMED.dram
    assert fitted.launch > 1.2


def test_held_out_shapes_are_predicted_after_a_fit_to_others():
    gpu = GPUS["a100-40"]
    true = replace(ASSUMED, calibration="true", codebook_tensor=0.6)
    rows = [r for r in synthetic_rows(gpu, true, 2) if r["m"] > 2]
    errors = held_out_errors(gpu, measurements_from_rows(rows), folds=2)
    assert len(errors) == len(rows)
    assert np.median(np.abs(errors)) < 0.05


def test_efficiencies_travel_as_json():
    fitted = replace(ASSUMED, calibration="L4, 2026-12-01", dram=0.7, launch=2.5)
    values = json.loads(json.dumps(fitted.to_dict()))
    assert Efficiencies.from_dict(values) == fitted
    with pytest.raises(ArtifactError, match="efficiencies has the unknown key 'clock'"):
        Efficiencies.from_dict(values | {"clock": 1.0})
    with pytest.raises(ArtifactError, match="lacks the key 'dram'"):
        Efficiencies.from_dict({k: v for k, v in values.items() if k != "dram"})


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("orin-nx", "orin-nx"),
    ],
)
def test_drivers_names_lead_to_the_table(device, name):
    assert gpu_of_device(device) is GPUS[name]


@pytest.mark.parametrize("device", ["Orin", "NVIDIA L40S", "NVIDIA GeForce RTX 4090 Laptop GPU"])
def test_other_devices_are_not_taken_for_one_of_the_table(device):
    with pytest.raises(OptionError, match="is not in the table"):
        gpu_of_device(device)


@pytest.mark.parametrize(
    ("names", "tiles"),
    [(GEMMS, CODEBOOK_GEMMS), (GEMVS, CODEBOOK_GEMVS), (WGMMAS, CODEBOOK_WGMMAS)],
)
def test_entry_points_lead_back_to_their_tiles(names, tiles):
    assert [tile_of_entry(name) for name in names] == list(tiles)
    assert tile_of_entry(names[0].replace("x", "x9")) is None


def test_rows_that_the_model_does_not_predict_are_left_out():
    rows = [
        row(GEMMS[0], 512, 1152, 1152),
        row(GEMMS[0], 512, 1152, 1152, ok=False),
        row(GEMMS[0], 512, 1152, 1152) | {"microseconds": None},
        row("vq4dit_decode_f16_x", 1, 1152, 1152, op="CodebookDecode"),
        row("somebody_elses_kernel", 512, 1152, 1152),
    ]
    assert len(measurements_from_rows(rows)) == 1


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"m": 0}, r"row 0.m is 0, needed an integer in 1"),
        ({"dtype": "int8"}, "row 0.dtype is 'int8'"),
        ({"microseconds": -1.0}, "row 0.microseconds is -1.0"),
        ({"bits": 7}, "row 0.bits is 7"),
    ],
)
def test_hostile_rows_are_refused(changed, match):
    with pytest.raises(ArtifactError, match=match):
        measurements_from_rows([row(GEMMS[0], 512, 1152, 1152) | changed])


def test_too_few_measurements_are_refused():
    with pytest.raises(OptionError, match="1 of 1 measured launches are known"):
        fit_efficiencies(
            GPUS["l4"], measurements_from_rows([row(GEMMS[0], 1, 64, 64)]), "too few"
        )  # fmt: skip


def test_measured_selection_overrides_the_model(tmp_path):
    rows = [
        row("cublas", 512, 3456, 1152, 1.0),
        row(GEMMS[3], 512, 3456, 1152, 9.0),
        row(GEMMS[2], 512, 3456, 1152, 8.0),
    ]
    selection = selection_from_rows("a100-40", "A100, today", rows)
    write_selection(tmp_path / "selection.json", selection)
    assert read_selection(tmp_path / "selection.json") == selection
    near = select_kernel("a100-40", 300, 3456, 1152, selection=selection)
    assert near == (CODEBOOK_GEMMS[2], "A100, today")
    for m, n in ((255, 3456), (512, 1152)):  # too few rows, another weight
        assert select_kernel("a100-40", m, n, 1152, selection=selection)[1] == UNCALIBRATED
    with pytest.raises(ArtifactError, match="selection is of a100-40, needed l4"):
        select_kernel("l4", 300, 3456, 1152, selection=selection)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d | {"version": 2}, "version is 2, this program reads 1"),
        (lambda d: d | {"entries": 3}, "entries must be a list"),
        (lambda d: d | {"entries": d["entries"] * 2}, "two entries are of the same shape"),
        (lambda d: d | {"entries": [d["entries"][0] | {"kernel": "x"}]}, "has the tile of 'x'"),
        (lambda d: d | {"entries": [d["entries"][0] | {"more": 1}]}, "unknown key 'more'"),
    ],
)
def test_damaged_selection_files_are_refused(tmp_path, change, match):
    path = tmp_path / "selection.json"
    write_selection(path, selection_from_rows("thor", "t", [row(GEMMS[0], 8, 64, 64)]))
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ArtifactError, match=match):
        read_selection(path)
