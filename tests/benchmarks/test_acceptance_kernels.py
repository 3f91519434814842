"""Stage A of the GPU acceptance run: kernels in the PTX emulator, calls on a driver of the host."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated_device import (
    MICROSECONDS,
    EmulatedBuffer,
    EmulatedDevice,
    EmulatedEvent,
    EmulatedGraph,
    EmulatedKernel,
)

from vq4dit.errors import BackendUnavailable
from vq4dit.plugins import schema
from vq4dit.plugins.cuda.compile import compile_ptx
from vq4dit.plugins.cuda.configuration import supported_tiles
from vq4dit.plugins.cuda.launch import launch_geometry
from vq4dit.plugins.cuda.measurement import measurements_from_rows
from vq4dit.plugins.layout import GroupOrder
from vq4dit.plugins.reference import codebook_decode, codebook_gemm

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from acceptance import cuda_driver, kernels  # noqa: E402
from acceptance.cases import all_cases  # noqa: E402
from acceptance.images import prepare_images  # noqa: E402
from acceptance.layer import from_bits, random_layer, to_bits  # noqa: E402

sys.path.remove(str(BENCHMARKS))

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")

CASES = {case.name: case for case in all_cases()}
GEMM, RESIDUAL, DECODE = schema.OPS


def small(op, **changed):
    """A case of an op, cut down to what the emulator does in a second or two."""
    case = next(c for c in CASES.values() if c.op == op)
    values = {"n": 72, "k": 144, "layer": "small", "m": 0 if op == DECODE else 10} | changed
    return replace(case, **values)


@pytest.fixture
def emulated(monkeypatch):
    """Machine code is PTX here, and cuBLAS is not installed."""

    def no_cublas(device):
        raise BackendUnavailable("libcublas was not found")

    monkeypatch.setattr(kernels, "load_image", lambda _, k, sm: compile_ptx(k, sm).encode())
    monkeypatch.setattr(kernels, "Cublas", no_cublas)
    monkeypatch.setattr(kernels, "_COLD_BYTES", 1 << 14)
    return EmulatedDevice()


@pytest.mark.parametrize(
    "real, double",
    [
        (cuda_driver.Device, EmulatedDevice),
        (cuda_driver.Buffer, EmulatedBuffer),
        (cuda_driver.Kernel, EmulatedKernel),
        (cuda_driver.Graph, EmulatedGraph),
        (cuda_driver.Event, EmulatedEvent),
    ],
)
def test_the_double_has_the_methods_of_the_driver(real, double):
    names = [n for n in vars(real) if not n.startswith("_")]
    assert names
    for name in names:
        ours, theirs = vars(double)[name], vars(real)[name]
        assert isinstance(ours, property) == isinstance(theirs, property)
        if not isinstance(ours, property):
            assert list(inspect.signature(ours).parameters) == list(
                inspect.signature(theirs).parameters
            )


@pytest.mark.parametrize(
    "case",
    [
        small(GEMM, activation="gelu_tanh"),
        small(GEMM, dtype="bfloat16", n=96, row_groups=3),
        small(RESIDUAL, sequence=5),
        small(DECODE),
    ],
    ids=lambda case: case.name,
)
def test_every_kernel_of_a_case_gives_the_answer(emulated, case):
    """Arguments, launch and answer fit each other: the emulator runs what a GPU would."""
    rows = kernels.measure_case(case, emulated, None)
    ours = [row for row in rows if row["kernel"] != "cublas"]
    assert [row["kernel"] for row in ours] == [kernel.name for kernel in case.kernels]
    timed = [row.kernel for row in measurements_from_rows(rows)]  # the cost model reads them
    assert timed == ([] if case.op == DECODE else [row["kernel"] for row in ours])
    for row in ours:
        assert row["ok"], row
        assert row["relative_error"] <= kernels.ERROR_LIMITS[case.dtype]
        assert row["microseconds"] == pytest.approx(MICROSECONDS / kernels._LAUNCHES, abs=1e-3)
        assert {"gpu", "kernel", "m", "n", "k", "dtype"} <= row.keys()
    assert all(buffer.is_freed for buffer in emulated.buffers)


def test_a_gpu_runs_the_kernels_that_are_made_for_it_alone(emulated, monkeypatch):
    monkeypatch.setattr(EmulatedDevice, "compute_capability", 90)
    case = small(RESIDUAL, sequence=5)
    rows = kernels.measure_case(case, emulated, None)
    ours = [row for row in rows if row["kernel"] != "cublas"]
    own = [kernel.name for kernel in case.kernels_on(90) if kernel.only_sm == 90]
    assert len(own) == len(supported_tiles("wgmma"))
    assert [row["kernel"] for row in ours] == [kernel.name for kernel in case.kernels] + own
    assert all(row["ok"] for row in ours)
    assert {row.kernel for row in measurements_from_rows(rows)} >= set(own)


def test_a_wrong_kernel_is_told(emulated, monkeypatch):
    """One that adds nothing, and one that writes nothing."""
    case = small(GEMM)
    monkeypatch.setattr(EmulatedKernel, "launch", lambda *_: None)
    silent = kernels.measure_case(case, emulated, None)[1]
    assert (silent["ok"], silent["relative_error"]) == (False, None)
    fill = EmulatedBuffer.fill
    monkeypatch.setattr(EmulatedBuffer, "fill", lambda self, byte: fill(self, 0))
    zeros = kernels.measure_case(case, emulated, None)[1]
    assert not zeros["ok"] and zeros["relative_error"] == pytest.approx(1)


def test_a_kernel_that_does_not_load_is_told(emulated, monkeypatch):
    def refuse(*_):
        raise BackendUnavailable("cuModuleLoadData failed: CUDA_ERROR_NO_BINARY_FOR_GPU")

    monkeypatch.setattr(kernels, "load_image", refuse)
    rows = kernels.measure_case(small(GEMM), emulated, None)
    assert all("NO_BINARY" in row["error"] for row in rows[1:])
    assert not any(row["ok"] for row in rows[1:])


def test_a_kernel_that_crashes_is_named_and_ends_its_case(emulated, monkeypatch):
    def crash(*_):
        raise cuda_driver.ContextLost("cuCtxSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(EmulatedKernel, "launch", crash)
    case = small(GEMM)
    with pytest.raises(cuda_driver.ContextLost, match=f"^{case.kernels[0].name}: .*ILLEGAL"):
        kernels.measure_case(case, emulated, None)
    assert all(buffer.is_freed for buffer in emulated.buffers)


@pytest.mark.parametrize("order", [None, GroupOrder.CONTIGUOUS])
@pytest.mark.parametrize("activation", ["none", "gelu_tanh", "silu"])
def test_the_answer_is_the_reference(activation, order):
    case = small(GEMM, activation=activation, order=order, n=90, row_groups=3)
    layer = random_layer(case)
    values = {name: from_bits(layer.inputs[name], case.dtype) for name in ("x", "codebook", "bias")}
    expected = codebook_gemm(
        values["x"], values["codebook"], layer.inputs["assignments"], values["bias"],
        layout=case.layout, activation=activation,
    )  # fmt: skip
    np.testing.assert_allclose(
        layer.expected, expected[np.ix_(layer.rows, layer.columns)], rtol=1e-4, atol=1e-5
    )


def test_the_decoded_weight_is_the_reference():
    case = small(DECODE, bits=3)
    layer = random_layer(case)
    codebook = from_bits(layer.inputs["codebook"], case.dtype)
    expected = codebook_decode(codebook, layer.inputs["assignments"], layout=case.layout)
    np.testing.assert_array_equal(layer.expected, expected[layer.rows])


def test_bfloat16_rounds_to_nearest_even():
    """As torch does, ties included."""
    ties = np.array([1.0, 1.00390625, 1.01171875, -3.14159274, 1e38], np.float32)
    values = np.concatenate([ties, np.random.default_rng(0).standard_normal(1000, np.float32)])
    expected = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(from_bits(to_bits(values, "bfloat16"), "bfloat16"), expected)


def test_cases_cover_the_layers_and_have_distinct_names():
    assert len(CASES) == len(all_cases())
    assert {case.op for case in CASES.values()} == set(schema.OPS)
    assert {case.dtype for case in CASES.values()} == {"float16", "bfloat16"}
    assert {case.bits for case in CASES.values()} == {1, 2, 3, 4}
    shapes = {(c.n, c.k) for c in CASES.values() if c.m == 512}
    assert shapes == {(3456, 1152), (1152, 1152), (4608, 1152), (1152, 4608)}
    assert all(case.kernels for case in CASES.values())


@pytest.fixture(scope="module")
def fake_gpu(tmp_path_factory):
    """A folder with a driver and a cuBLAS that run on the host."""
    folder, here = tmp_path_factory.mktemp("gpu"), Path(__file__).parent
    sources = {
        "libcuda.so.1": here.parent / "plugins" / "fake_cuda_driver.cc",
        "libcublas.so.12": here / "fake_cublas.cc",
    }
    for library, source in sources.items():
        command = ["c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([*command, str(source), "-o", str(folder / library)], check=True)
    return folder


def ask_driver(fake_gpu, *arguments, **environment):
    """(JSON of the last line, the other lines) of gpu_driver_child.py."""
    script = Path(__file__).with_name("gpu_driver_child.py")
    variables = os.environ | {"LD_LIBRARY_PATH": str(fake_gpu)} | environment
    command = [sys.executable, str(script), str(BENCHMARKS), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (told,) = (line for line in lines if line.startswith(("{", "[")))
    return json.loads(told), [line for line in lines if line is not told]


@needs_compiler
def test_calls_of_the_driver_and_cublas(fake_gpu):
    """Every call with its real types: memory, sizes above 32 bits, events, y = x W^T."""
    found, _ = ask_driver(fake_gpu)
    assert (found["name"], found["sm"], found["driver"]) == ("Fake GPU", 87, "13.2")
    assert found["memory"] == [3 << 32, 5 << 32]
    assert found["same"] and found["filled"]
    assert found["microseconds"] == 250.0
    assert found["product"] == found["expected"]


@needs_compiler
@pytest.mark.parametrize(
    "environment, message",
    [
        ({"FAKE_CUDA_DEVICES": "0"}, "the driver sees no GPU; check nvidia-smi"),
        ({"FAKE_CUDA_FAIL": "cuCtxSynchronize"}, "cuCtxSynchronize failed: CUDA_ERROR_INVALID"),
        ({"FAKE_CUDA_CRASH": "cuCtxSynchronize"}, "lost: cuCtxSynchronize failed: CUDA_ERROR_LAU"),
    ],
)
def test_failures_of_the_driver(fake_gpu, environment, message):
    found, _ = ask_driver(fake_gpu, **environment)
    assert message in found["error"]


@needs_compiler
def test_stage_a_on_a_driver_that_runs_nothing(fake_gpu, tmp_path):
    """Launches as the kernels need them, in a graph each; no answer is taken for right."""
    case = CASES["CodebookGemm-tiny-m1-2bit-float16"]
    prepare_images(tmp_path, [case], [87], lambda text: None)
    rows, lines = ask_driver(fake_gpu, case.name, str(tmp_path))
    ours = rows[1:]
    assert "cublasGemmEx failed with status 1" in rows[0]["error"]  # the fake knows bfloat16 only
    assert [row["kernel"] for row in ours] == [kernel.name for kernel in case.kernels]
    assert all(not row["ok"] and row["relative_error"] is None for row in ours)
    assert all(row["microseconds"] > 0 for row in ours)
    for kernel in case.kernels:
        expected = launch_geometry(kernel, m=case.m, n=case.n, k=case.k)
        numbers = [*expected.grid, *expected.block, expected.shared_bytes]
        start = f"launch cubin {kernel.name} {' '.join(map(str, numbers))} 0x"
        direct = [line for line in lines if line.startswith(start)]
        graph = [line for line in lines if line.startswith(f"graph {start}")]
        assert len(direct) == 2 and len(graph) == (kernels._REPEATS + 1) * kernels._LAUNCHES
        assert len({line.split()[13] for line in graph}) == kernels._MAX_COPIES  # of assignments
        assert all(line.split()[-5:-1] == ["1", "8", "16", "1"] for line in direct)
