"""The ahead-of-time plugins, walked through TensorRT 11.4's own bindings as its builder would.

What the plan would hold is compared with the kernels' own description: parameters with those in the
PTX, launch sizes with launch.py at several batches, tactics with the tiles.
"""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tolerances
import torch
from ptx import run_kernel
from support_tensorrt import needs_bindings, run_with_bindings

from vq4dit.errors import OptionError
from vq4dit.plugins import schema
from vq4dit.plugins.cuda.configuration import supported_tiles
from vq4dit.plugins.cuda.launch import launch_geometry
from vq4dit.plugins.cuda.parameters import SCALAR, kernel_parameters
from vq4dit.plugins.layout import AssignmentLayout, GroupOrder, Layout
from vq4dit.plugins.packing import pack_assignments
from vq4dit.plugins.reference import codebook_decode, codebook_gemm, codebook_gemm_residual
from vq4dit.plugins.tensorrt import register_plugins
from vq4dit.plugins.tensorrt.kernel_choice import kernels_for, tactic_number

DRIVER = Path(__file__).parents[1] / "tensorrt_driver.py"
SM = 80
TOKENS, OUT = 16, 192
TWO_BITS = Layout(
    in_features=128, codebook_size=256, sub_vector_len=4, group_order=GroupOrder.MMA16,
    assignment_layout=AssignmentLayout.MMA_LANES,
)  # fmt: skip
DTYPES = {"HALF": "float16", "BF16": "bfloat16"}
TOLERANCES = {"HALF": tolerances.CUDA_FP16_RELATIVE, "BF16": tolerances.CUDA_BF16_RELATIVE}
PTX_TYPE = {"input": "u64", "output": "u64", SCALAR: "u32"}


def case(op, dtype="HALF", *, layout=TWO_BITS, activation="none", row_groups=1, rank=3, **changed):
    """One node with a dynamic number of samples N; `changed` replaces inputs by name."""
    x = ["N", layout.in_features] if rank == 2 else ["N", TOKENS, layout.in_features]
    inputs = {
        "x": [dtype, x],
        "codebook": [dtype, [row_groups, layout.codebook_size, layout.sub_vector_len]],
        "assignments": ["INT8", list(layout.assignments_shape(OUT))],
        "bias": [dtype, [OUT]],
        "gate": [dtype, ["N", OUT]],
        "residual": ["FLOAT", ["N", TOKENS, OUT]],
    } | changed
    return {
        "op": op.name,
        "attributes": schema.attributes_from_layout(op, layout, activation=activation),
        "inputs": [inputs[name] for name in op.inputs],
        "ranges": {"N": [1, 2, 64]},
        "sizes": [{"N": n} for n in (1, 7, 64)],
    }


GEMM, RESIDUAL, DECODE = schema.OPS.values()
CASES = {
    "gemm": case(GEMM),
    "gelu": case(GEMM, activation="gelu_tanh"),
    "stacked": case(GEMM, "BF16", activation="silu", row_groups=3, rank=2),
    "residual": case(RESIDUAL),
    "decode": case(DECODE),
}
#: Per case the kernels that the emulator runs, by their tile.
EMULATED = [
    ("gelu", "64x64_w4s4"),
    ("gelu", "8x64_w4s5_split4"),
    ("stacked", "64x64_w8s3_split2"),
    ("stacked", "16x64"),
    ("residual", "128x64"),
    ("residual", "8x32"),
    ("decode", "1x32"),
]
REFUSED = {
    "float32": (
        case(GEMM, "FLOAT"),
        r"CodebookGemm: x has type FLOAT, the GPU kernels take HALF .* build with --weights fp16",
    ),
    "mixed types": (
        case(GEMM, bias=["FLOAT", [OUT]]),
        "bias has type FLOAT, needed HALF",
    ),
    "narrow residual": (
        case(RESIDUAL, residual=["HALF", ["N", TOKENS, OUT]]),
        "residual has type HALF, needed FLOAT",
    ),
    "another layout": (
        case(GEMM, layout=Layout(in_features=128, codebook_size=256, sub_vector_len=4)),
        "assignment layout is rows, the GPU kernels read mma_lanes; export for --target tensorrt",
    ),
    "row of x": (
        case(GEMM, x=["HALF", ["N", TOKENS, 64]]),
        "x has rows of 64, needed 128",
    ),
    "bias": (case(GEMM, bias=["HALF", [7]]), r"bias has shape \(7,\), needed \(192,\)"),
    "codebook": (case(GEMM, codebook=["HALF", [1, 255, 4]]), "codebook has shape"),
    "dynamic weight": (
        case(GEMM, codebook=["HALF", ["N", 256, 4]]),
        "codebook and assignments must be constants",
    ),
}


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """What became of every case, by name; one child process for all."""
    path = tmp_path_factory.mktemp("cases") / "cases.json"
    cases = {name: given | {"launch": launched(name)} for name, given in CASES.items()}
    cases |= {name: refused for name, (refused, _) in REFUSED.items()}
    path.write_text(json.dumps({"sm": SM, "cases": list(cases.values())}))
    return dict(zip(cases, run_with_bindings(DRIVER, str(path)), strict=True))


def launched(name):
    """Tactics to compile, which takes a second each: every tile once, else what is emulated."""
    tiles = [tile for emulated, tile in EMULATED if emulated == name]
    return [
        tactic_number(kernel)
        for kernel in kernels(name)
        if name == "gemm" or any(f"_{tile}" in kernel.name for tile in tiles)
    ]


def kernels(name):
    """Kernel configurations that the case's node may run."""
    given = CASES[name]
    op = schema.OPS[given["op"]]
    dtype = DTYPES[given["inputs"][0][0]]
    return kernels_for(
        op, TWO_BITS, dtype=dtype, activation=given["attributes"].get("activation", "none")
    )


@needs_bindings
@pytest.mark.parametrize("name", CASES)
def test_types_and_shapes(walked, name):
    found, given = walked[name], CASES[name]
    op, dtype = schema.OPS[given["op"]], given["inputs"][0][0]
    output = "FLOAT" if op is RESIDUAL else dtype
    assert found.get("error") is None
    assert found["outputs"] == [output]
    assert found["combinations"] == [[*(t for t, _ in given["inputs"]), output]]
    assert found["formats"] == ["LINEAR"]
    for shape, sizes in zip(found["shapes"], given["sizes"], strict=True):
        inputs = [tuple(sizes.get(n, n) for n in dims) for _, dims in given["inputs"]]
        assert tuple(shape) == schema.output_shape(op, TWO_BITS, inputs)


@needs_bindings
@pytest.mark.parametrize("name", CASES)
def test_every_tile_is_a_tactic(walked, name):
    numbers = {tactic_number(kernel): kernel.name for kernel in kernels(name)}
    launches = {launch["tactic"]: launch["kernel"] for launch in walked[name]["launches"]}
    assert launches == {tactic: numbers[tactic] for tactic in launched(name)}
    assert walked[name]["tactics"] == sorted(numbers)
    assert len(numbers) == len(kernels(name)) > 0


@needs_bindings
@pytest.mark.parametrize("name", CASES)
def test_arguments_are_the_parameters_of_the_ptx(walked, name):
    """TensorRT passes inputs, then integers, then the output: so must the kernel take them."""
    by_name = {kernel.name: kernel for kernel in kernels(name)}
    for launch in walked[name]["launches"]:
        parameters = kernel_parameters(by_name[launch["kernel"]])
        assert ptx_parameters(launch["ptx"], launch["kernel"]) == [
            PTX_TYPE[parameter.kind] for parameter in parameters
        ]
        inputs = [p.name for p in parameters if p.kind == "input"]
        assert inputs == list(schema.OPS[CASES[name]["op"]].inputs)
        assert launch["num_scalars"] == sum(p.kind == SCALAR for p in parameters)
        assert re.search(r"^\.target\s+sm_80\b", launch["ptx"], re.M)


@needs_bindings
@pytest.mark.parametrize("name", CASES)
def test_launches_are_those_of_the_kernels(walked, name):
    given = CASES[name]
    by_name = {kernel.name: kernel for kernel in kernels(name)}
    groups = dict(zip(schema.OPS[given["op"]].inputs, given["inputs"], strict=True))["codebook"][1]
    for launch, at in product(walked[name]["launches"], range(len(given["sizes"]))):
        kernel, batch = by_name[launch["kernel"]], given["sizes"][at]["N"]
        x = given["inputs"][0][1]
        m = batch if len(x) == 2 else batch * TOKENS
        expected = launch_geometry(kernel, m=m, n=OUT, k=128, row_groups=groups[0])
        found = launch["at"][at]
        assert tuple(found["grid"]) == expected.grid
        assert tuple(found["block"]) == expected.block
        assert found["shared_bytes"] == expected.shared_bytes
        values = {"m": m, "out_features": OUT, "in_features": 128, "row_groups": groups[0]}
        values["sequence"] = TOKENS
        names = [p.name for p in kernel_parameters(kernel) if p.kind == SCALAR]
        assert found["scalars"] == [values[name] for name in names]


@needs_bindings
@pytest.mark.parametrize("name, tile", EMULATED)
def test_what_the_plan_holds_gives_the_answer(walked, name, tile):
    """PTX, launch size and integers as TensorRT was told them, run in the emulator."""
    (launch,) = (x for x in walked[name]["launches"] if f"_{tile}" in x["kernel"])
    assert_right(CASES[name], launch)


@needs_bindings
def test_hopper_has_tactics_of_its_own(tmp_path):
    given, attributes = CASES["gemm"], CASES["gemm"]["attributes"]
    every = kernels_for(GEMM, TWO_BITS, dtype="float16", activation=attributes["activation"], sm=90)
    chosen = next(kernel for kernel in reversed(every) if kernel.kernel == "wgmma")
    path = tmp_path / "cases.json"
    cases = [given | {"launch": [tactic_number(chosen)]}]
    path.write_text(json.dumps({"sm": 90, "cases": cases}))
    (found,) = run_with_bindings(DRIVER, str(path))
    assert found["tactics"] == sorted(tactic_number(kernel) for kernel in every)
    assert len(every) == len(kernels("gemm")) + len(supported_tiles("wgmma"))
    (launch,) = found["launches"]
    assert launch["kernel"] == chosen.name
    assert re.search(r"^\.target\s+sm_90a\b", launch["ptx"], re.M)
    assert_right(given, launch)


def assert_right(given, launch) -> None:
    """Run a launch of a case for seven samples; its answer must be the reference's."""
    op, at = schema.OPS[given["op"]], given["sizes"].index({"N": 7})
    inputs, expected = random_node(given, batch=7)
    output = np.full(expected.shape, np.nan, np.float32 if op is RESIDUAL else np.float16)
    dtype = given["inputs"][0][0]
    stored = [store(inputs[n], dtype, n) for n in op.inputs]
    told = launch["at"][at]
    run_kernel(
        launch["ptx"], launch["kernel"], told["grid"], told["block"],
        [*stored, *told["scalars"], output], told["shared_bytes"],
    )  # fmt: skip
    found = output if op is RESIDUAL else load(output.view(np.uint16), dtype)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error <= TOLERANCES[dtype]


@needs_bindings
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_is_wrong(walked, name):
    _, message = REFUSED[name]
    assert re.search(message, walked[name].get("error", "nothing was refused")), walked[name]


def test_an_old_gpu_is_refused():
    with pytest.raises(OptionError, match=r"sm is 75, the kernels need 80 \(Ampere\) or newer"):
        register_plugins(75)


@needs_bindings
def test_an_unknown_gpu_gets_the_newest_ptx_below_it(tmp_path):
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"sm": 103, "cases": [CASES["decode"]]}))
    (found,) = run_with_bindings(DRIVER, str(path))
    assert re.search(r"^\.target\s+sm_100\b", found["launches"][0]["ptx"], re.M)


def test_tactic_numbers_are_distinct_and_positive():
    """Over all tiles, epilogues and types of every named configuration that the kernels take."""
    names, numbers = set(), set()
    for size, length in ((256, 8), (256, 4), (64, 2), (256, 2)):
        layout = Layout(
            in_features=128, codebook_size=size, sub_vector_len=length,
            assignment_layout=AssignmentLayout.MMA_LANES,
        )  # fmt: skip
        for op, dtype, activation in product((GEMM,), DTYPES.values(), ("none", "gelu_tanh")):
            for kernel in kernels_for(op, layout, dtype=dtype, activation=activation, sm=90):
                names.add(kernel.name)
                numbers.add(tactic_number(kernel))
    tiles = supported_tiles("gemm") + supported_tiles("wgmma")
    assert len(numbers) == len(names) >= 16 * len(tiles)
    assert all(0 < number < 2**31 for number in numbers)


def random_node(given, *, batch):
    """Inputs of a case in float32, as its type can hold them, and the reference's answer."""
    op, dtype = schema.OPS[given["op"]], given["inputs"][0][0]
    rng = np.random.default_rng(0)
    inputs = {}
    for name, (_, dims) in zip(op.inputs, given["inputs"], strict=True):
        shape = tuple(batch if size == "N" else size for size in dims)
        inputs[name] = load(store(rng.standard_normal(shape, np.float32), dtype, name), dtype, name)
    indices = rng.integers(0, TWO_BITS.codebook_size, (OUT, TWO_BITS.num_sub_vectors))
    inputs["assignments"] = pack_assignments(indices, TWO_BITS)
    if op is DECODE:
        return inputs, codebook_decode(**inputs, layout=TWO_BITS)
    if op is RESIDUAL:
        return inputs, codebook_gemm_residual(**inputs, layout=TWO_BITS)
    activation = given["attributes"]["activation"]
    return inputs, codebook_gemm(**inputs, layout=TWO_BITS, activation=activation)


def store(values, dtype, name=""):
    """An input as it lies in the GPU's memory."""
    if name in ("residual", "assignments"):
        return values
    if dtype == "HALF":
        return values.astype(np.float16).view(np.uint16)
    return torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()


def load(bits, dtype, name=""):
    """float32 of what `store` gave."""
    if name in ("residual", "assignments"):
        return bits
    if dtype == "HALF":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def ptx_parameters(ptx, entry):
    """Types of the parameters of one entry point, in order."""
    found = re.search(rf"\.entry\s+{entry}\s*\((.*?)\)", ptx, re.S)
    assert found, f"the PTX has no entry {entry}"
    return re.findall(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)", found.group(1))
