"""The C++ plugin library: built against real headers, walked by a harness, loaded by a registry.

TensorRT's headers come with its SDK: TENSORRT_ROOT names one or more folders that have them in
include/ (by the path separator; NVIDIA/TensorRT on GitHub has those of every release). Without them
everything here is skipped. A driver that only prints stands for libcuda.so.1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support_tensorrt import lean_library

from vq4dit.plugins import schema
from vq4dit.plugins.cuda.launch import launch_geometry
from vq4dit.plugins.layout import AssignmentLayout, GroupOrder, Layout
from vq4dit.plugins.tensorrt.embed import CPP_FOLDER, embed_kernels
from vq4dit.plugins.tensorrt.kernel_choice import kernels_for

HERE = Path(__file__).parent
ROOTS = [Path(p) for p in os.environ.get("TENSORRT_ROOT", "").split(os.pathsep) if p]
SM = 87
# What tensorrt_harness.cc asks for.
BATCH, TOKENS, OUT, IN = 3, 16, 192, 128
HALF, BF16, FLOAT, INT8 = 1, 7, 0, 2
DTYPES = {HALF: "float16", BF16: "bfloat16"}
GEMM, RESIDUAL, DECODE = schema.OPS.values()
LAYOUT = Layout(
    in_features=IN, codebook_size=256, sub_vector_len=4, group_order=GroupOrder.MMA16,
    assignment_layout=AssignmentLayout.MMA_LANES,
)  # fmt: skip

pytestmark = [
    pytest.mark.toolchain,
    pytest.mark.skipif(not ROOTS, reason="TENSORRT_ROOT names no folder with TensorRT's headers"),
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake"),
]


@pytest.fixture(scope="module")
def kernels_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    count = embed_kernels(folder, sms=[SM], bits=[2], dtypes=list(DTYPES.values()))
    assert count == sum(len(kernels(op, dtype, a)) for op, dtype, a in nodes())
    return folder


@pytest.fixture(scope="module", params=ROOTS, ids=lambda root: root.name)
def build(request, kernels_folder, tmp_path_factory):
    """The build folder for one version of the headers."""
    folder = tmp_path_factory.mktemp("library")
    more = {"VQ4DIT_HARNESS": HERE / "tensorrt_harness.cc"}
    if is_of_lean_version(request.param):
        more["NVINFER_LIBRARY"] = lean_library()
    configure(folder, request.param, kernels_folder, more)
    run(["cmake", "--build", str(folder)])
    return folder


def configure(folder, root, kernels_folder, more):
    cuda = next(Path(p) / "cu13" for p in find_spec("nvidia").submodule_search_locations)
    defined = more | {
        "TENSORRT_ROOT": root,
        "CUDA_ROOT": cuda,
        "VQ4DIT_KERNELS": kernels_folder,
        "VQ4DIT_WERROR": "ON",
    }
    options = [f"-D{name}={value}" for name, value in defined.items()]
    run(["cmake", "-S", str(CPP_FOLDER), "-B", str(folder), *options])


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory):
    """A folder with a libcuda.so.1 that prints what it is asked for."""
    folder = tmp_path_factory.mktemp("driver")
    source = str(HERE / "fake_cuda_driver.cc")
    run(["c++", "-shared", "-fPIC", "-Wall", "-Werror", source, "-o", f"{folder}/libcuda.so.1"])
    return folder


@pytest.fixture(scope="module")
def seen(build, fake_driver):
    """Lines that the harness printed, split, by their first word."""
    return harness(build, LD_LIBRARY_PATH=fake_driver)


def harness(build, **environment):
    variables = os.environ | {name: str(value) for name, value in environment.items()}
    done = subprocess.run(
        [build / "vq4dit_tensorrt_harness"], env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = {}
    for line in done.stdout.splitlines():
        name, *words = line.split()
        lines.setdefault(name, []).append(words)
    return lines


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def is_of_lean_version(root):
    """Whether these are the headers of the lean runtime's major version: only they link to it."""
    header = (root / "include" / "NvInferVersion.h").read_text()
    major = re.search(r"define (?:NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) (\d+)", header)
    return lean_library() is not None and lean_library().suffix == f".{major.group(1)}"


def nodes():
    """(op, dtype, activation) of everything that the library has kernels for."""
    for dtype in DTYPES.values():
        yield from ((GEMM, dtype, a) for a in ("none", "gelu_tanh", "silu"))
        yield from ((op, dtype, "none") for op in (RESIDUAL, DECODE))


def kernels(op, dtype, activation="none"):
    return kernels_for(op, LAYOUT, dtype=dtype, activation=activation)


def test_creators(seen):
    kind = ["PLUGIN", "CREATOR_V3ONE"]
    assert seen["creator"] == [
        ["vq4dit", op.name, "1", str(6 if op is GEMM else 5), *kind] for op in schema.OPS.values()
    ]


def test_output_shapes_keep_the_dynamic_batch(seen):
    assert seen["shape"] == [
        ["0", "0", f"{BATCH}?", str(TOKENS), str(OUT)],
        ["1", "0", f"{BATCH}?", str(TOKENS), str(OUT)],
        ["2", "0", str(OUT), str(IN)],
    ]


def test_format_combinations(seen):
    """Half and bfloat16, one each, linear; float32 only where the schema has it."""
    expected = []
    for index, op in enumerate(schema.OPS.values()):
        for element in (HALF, BF16):
            wide = FLOAT if op is RESIDUAL else element
            fixed = {"assignments": INT8, "residual": FLOAT}
            inputs = [fixed.get(name, element) for name in op.inputs]
            expected.append([str(v) for v in (index, *inputs, wide)] + ["out", "0", str(wide)])
    assert seen["formats"] == expected
    assert seen["float32"] == [["0", "1"], ["1", "1"], ["2", "1"]]


def test_serialized_fields_make_the_same_plugin(seen):
    assert seen["round-trip"] == [["0", "6", "1"], ["1", "5", "1"], ["2", "5", "1"]]


def test_tactics_with_and_without_an_opt_shape(seen):
    found = [(int(op), int(element), *map(int, rest)) for op, element, *rest in seen["tactics"]]
    assert found == [
        (index, element, 0, len(kernels(op, DTYPES[element])), 0)
        for index, op in enumerate(schema.OPS.values())
        for element in (HALF, BF16)
        for _ in range(2)
    ]
    assert seen["unknown-tactic"] == [["1"]] * 6


def test_launches_are_those_of_the_kernels(seen):
    """Every tactic through a driver that prints: kernel, size, arguments in order."""
    expected, pointers = [], [f"{0x1000 * (i + 1):#x}" for i in range(6)]
    for op in schema.OPS.values():
        scalars = [BATCH * TOKENS, OUT, IN, 1]
        scalars += [TOKENS] if op is RESIDUAL else []
        scalars = scalars[1:] if op is DECODE else scalars
        for dtype in DTYPES.values():
            found = kernels(op, dtype)
            for kernel in (*found, found[0]):  # without a tactic: the first
                launch = launch_geometry(kernel, m=BATCH * TOKENS, n=OUT, k=IN)
                numbers = (*launch.grid, *launch.block, launch.shared_bytes)
                used = pointers[: len(op.inputs)]
                words = ["cubin", kernel.name, *numbers, *used, *scalars, "0x9000"]
                expected.append([str(word) for word in words])
    assert seen["launch"] == expected
    assert all(words[-3:] == ["0", "0", "0"] for words in seen["enqueue"])


def test_shared_memory_is_asked_for_once_per_kernel(seen):
    names = [words[1] for words in seen["attribute"]]
    assert len(names) == len(set(names)) > 0
    for _, _, attribute, size in seen["attribute"]:
        assert int(attribute) == 8 and int(size) > 48 * 1024


def test_refusals_say_what_is_wrong(seen):
    assert seen["refused"] == [["1"]] * 7
    log = "\n".join(" ".join(words) for words in seen["log"])
    for text in (
        "CodebookGemm 'node': activation is 'relu'; needed none, gelu_tanh or silu",
        "codebook_size is 257, needed 1..256",
        "in_features 128 is not a positive multiple of sub_vector_len 5",
        "group_order 1 needs sub_vector_len 4 and in_features a multiple of 16; found 4 and 120",
        "group_order is 3, needed 0, 1 or 2",
        "attribute sub_vector_len is missing",
        "no attributes were given",
        "the GPU kernels take float16 or bfloat16; export with --weights fp16 or bf16",
        "the engine was built with a kernel (tactic 7) that this library does not have",
    ):
        assert text in log


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"FAKE_CUDA_SM": "75"}, "for sm_75; build it with -DVQ4DIT_SM=75"),
        ({"FAKE_CUDA_FAIL": "cuModuleLoadData"}, "cuModuleLoadData failed: CUDA_ERROR_NO_BINARY"),
        ({"FAKE_CUDA_FAIL": "cuModuleGetFunction"}, "cuModuleGetFunction failed: CUDA_ERROR_NOT_"),
        ({"FAKE_CUDA_FAIL": "cuFuncSetAttribute"}, "INVALID_VALUE for 81920 bytes of shared mem"),
        ({"FAKE_CUDA_FAIL": "cuLaunchKernel"}, "cuLaunchKernel failed: CUDA_ERROR_INVALID_VALUE"),
        ({"FAKE_CUDA_FAIL": "cuCtxGetCurrent"}, "this thread has no CUDA context"),
    ],
)
def test_failures_of_the_driver(build, fake_driver, environment, message):
    found = harness(build, LD_LIBRARY_PATH=fake_driver, **environment)
    assert message in "\n".join(" ".join(words) for words in found["log"])
    assert any(words[-1] == "1" for words in found["enqueue"])


def test_without_a_driver(build):
    """Loads and answers everything but a launch, which says what is missing."""
    found = harness(build, LD_LIBRARY_PATH="")
    if find_library("libcuda.so.1"):
        pytest.skip("this machine has a driver")
    assert ["vq4dit:", "libcuda.so.1", "was", "not", "found;"] in [w[:5] for w in found["log"]]


def test_no_sanitizer_complains(kernels_folder, fake_driver, tmp_path):
    """Addresses, leaks and undefined behaviour, in all that the harness calls."""
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -g"
    more = {"VQ4DIT_HARNESS": HERE / "tensorrt_harness.cc", "CMAKE_CXX_FLAGS": flags}
    configure(tmp_path, ROOTS[-1], kernels_folder, more)
    run(["cmake", "--build", str(tmp_path), "--target", "vq4dit_tensorrt_harness"])
    assert "creator" in harness(tmp_path, LD_LIBRARY_PATH=fake_driver)


def test_library_needs_neither_tensorrt_nor_cuda(build):
    told = subprocess.run(
        ["readelf", "-d", build / "libvq4dit_tensorrt.so"], capture_output=True, text=True
    ).stdout
    assert "NEEDED" in told
    assert not any(name in told for name in ("libnvinfer", "libcuda", "libcudart"))


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="no cross compiler")
def test_cross_compiled_for_jetson(kernels_folder, tmp_path):
    """AArch64, with kernels that were compiled here."""
    cross = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": "aarch64-linux-gnu-g++",
        "CMAKE_ASM_COMPILER": "aarch64-linux-gnu-g++",
    }
    configure(tmp_path, ROOTS[0], kernels_folder, cross)
    run(["cmake", "--build", str(tmp_path)])
    told = subprocess.run(
        ["readelf", "-h", tmp_path / "libvq4dit_tensorrt.so"], capture_output=True, text=True
    ).stdout
    assert "AArch64" in told


@pytest.mark.skipif(lean_library() is None, reason="needs tensorrt-lean-cu13")
@pytest.mark.parametrize("library", ["libvq4dit_tensorrt.so", "libvq4dit_tensorrt_preload.so"])
def test_real_registry_finds_the_creators(build, library):
    """In the registry of TensorRT 11.4: loaded by it, or registered by being loaded."""
    if not (build / library).exists():
        pytest.skip("headers and lean runtime are of different major versions")
    script = HERE / "tensorrt_registry.py"
    done = subprocess.run(
        [sys.executable, script, build / library], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [op.name for op in schema.OPS.values()]


def find_library(name):
    import ctypes

    try:
        return ctypes.CDLL(name)
    except OSError:
        return None
