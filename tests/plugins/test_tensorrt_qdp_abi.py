"""The ahead-of-time plugins through TensorRT's C++ interfaces, as its builder calls them.

As test_tensorrt_qdp.py, with nothing of TensorRT's Python side replaced: C++ calls the registry,
the creator and the plugin, brings symbolic dimensions and takes symbolic arguments. Needs the
headers of TensorRT 11 (TENSORRT_ROOT, see test_tensorrt_library.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from support_tensorrt import needs_bindings, run_with_bindings

from vq4dit.plugins import schema
from vq4dit.plugins.cuda.launch import launch_geometry
from vq4dit.plugins.cuda.parameters import SCALAR, kernel_parameters
from vq4dit.plugins.layout import AssignmentLayout, GroupOrder, Layout
from vq4dit.plugins.tensorrt.kernel_choice import kernels_for, tactic_number

HERE = Path(__file__).parent
HEADER = Path("include") / "impl" / "NvInferPythonPlugin.h"
ROOTS = [Path(p) for p in os.environ.get("TENSORRT_ROOT", "").split(os.pathsep) if p]
ROOT = next((root for root in ROOTS if (root / HEADER).is_file()), None)
SM = 80
TOKENS, OUT, IN = 16, 192, 128  # as in tensorrt_builder.cc
HALF, FLOAT, INT8 = 1, 0, 2
LAYOUT = Layout(
    in_features=IN, codebook_size=256, sub_vector_len=4, group_order=GroupOrder.MMA16,
    assignment_layout=AssignmentLayout.MMA_LANES,
)  # fmt: skip
GEMM, RESIDUAL, DECODE = schema.OPS.values()

pytestmark = [
    pytest.mark.toolchain,
    needs_bindings,
    pytest.mark.skipif(ROOT is None, reason=f"TENSORRT_ROOT names no folder with {HEADER}"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
]


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Lines by op, and the status of each op's walk under None."""
    library = tmp_path_factory.mktemp("builder") / "libbuilder.so"
    cuda = next(Path(p) / "cu13" for p in find_spec("nvidia").submodule_search_locations)
    command = ["c++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += ["-isystem", str(ROOT / "include"), "-isystem", str(cuda / "include")]
    source = str(HERE / "tensorrt_builder.cc")
    subprocess.run([*command, source, "-ldl", "-o", str(library)], check=True)
    lines = []
    statuses = run_with_bindings(
        HERE / "tensorrt_builder_child.py", str(library), str(SM), lines=lines
    )
    found, op = {None: statuses}, ""
    for name, *words in (line.split() for line in lines[:-1] if line.strip()):
        if name == "op":
            op = words[0]
        found.setdefault(op, {}).setdefault(name, []).append(words)
    return found


def kernels(op):
    return kernels_for(
        op, LAYOUT, dtype="float16", activation="gelu_tanh" if op is GEMM else "none"
    )


def test_every_question_is_answered(walked):
    statuses = dict(walked[None])
    assert statuses.pop("refused") != 0
    assert statuses == {op.name: 0 for op in schema.OPS.values()}


def test_float32_is_refused_in_words(walked):
    """TensorRT prints a plugin's exception: the user reads what to do."""
    told = " ".join(" ".join([name, *w]) for name, ws in walked["refused"].items() for w in ws)
    assert "CodebookGemm: x has type FLOAT, the GPU kernels take HALF (float16) and BF16" in told
    assert "build with --weights fp16 or bf16" in told


@pytest.mark.parametrize("op", schema.OPS.values(), ids=lambda op: op.name)
def test_types_and_shapes(walked, op):
    found = walked[op.name]
    assert found["interface"] == [["PLUGIN_V3QUICKAOT_BUILD"]]
    output = FLOAT if op is RESIDUAL else HALF
    shape = [OUT, IN] if op is DECODE else [7, TOKENS, OUT]
    assert found["output"] == [[str(v) for v in (output, *shape)]]
    special = {"assignments": INT8, "residual": FLOAT}
    types = [special.get(name, HALF) for name in op.inputs]
    assert found["combinations"] == [[str(v) for v in (1, *types, output)]]


@pytest.mark.parametrize("op", schema.OPS.values(), ids=lambda op: op.name)
def test_launches_are_those_of_the_kernels(walked, op):
    """Grid, block, shared memory and integers of every tactic, at 1 and at 7 samples."""
    expected = []
    for kernel in kernels(op):
        for samples in (1, 7):
            m = samples * TOKENS
            launch = launch_geometry(kernel, m=m, n=OUT, k=IN)
            values = {"m": m, "out_features": OUT, "in_features": IN, "row_groups": 1}
            values["sequence"] = TOKENS
            names = [p.name for p in kernel_parameters(kernel) if p.kind == SCALAR]
            numbers = (*launch.grid, *launch.block, launch.shared_bytes)
            row = (tactic_number(kernel), kernel.name, samples, *numbers)
            expected.append([str(v) for v in (*row, *(values[name] for name in names))])
    assert sorted(walked[op.name]["launch"]) == sorted(expected)


@pytest.mark.parametrize("op", schema.OPS.values(), ids=lambda op: op.name)
def test_kernels_have_their_entry_and_no_nul(walked, op):
    expected = [[str(tactic_number(kernel)), "1", "0"] for kernel in kernels(op)]
    assert sorted(walked[op.name]["kernel"]) == sorted(expected)
