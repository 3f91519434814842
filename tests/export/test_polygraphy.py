"""Polygraphy's tools open the exported models."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
from support_export import TINY, random_source, relative_error, run_model, step_inputs
from tolerances import FP32_RELATIVE

from vq4dit.export.check import check_model
from vq4dit.export.linear_ways import DECODE, always
from vq4dit.export.step import build_step_model

pytestmark = [
    pytest.mark.toolchain,
    pytest.mark.skipif(
        find_spec("polygraphy") is None or find_spec("onnx_graphsurgeon") is None,
        reason="needs polygraphy and onnx-graphsurgeon",
    ),
]


def polygraphy(*arguments, rtx="0"):
    """Output of one Polygraphy command, which must succeed."""
    tool = shutil.which("polygraphy", path=os.path.dirname(sys.executable))
    done = subprocess.run(
        [tool, *map(str, arguments)],
        env={**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": rtx},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("form", ["function", "inlined", "plugin"])
def test_inspect_lists_inputs_outputs_and_weights(tmp_path, form):
    step = build_step_model(random_source(), tmp_path, form=form, weights="fp16")
    told = polygraphy("inspect", "model", step.path, "--show", "layers", "weights")
    assert "---- 7 Graph Input(s) ----" in told and "---- 2 Graph Output(s) ----" in told
    assert "blocks.1.attn.qkv.assignments [dtype=int8" in told
    assert ("CodebookGemm" in told) == (form != "inlined")


def test_inspect_shows_decoded_weights(tmp_path):
    """As Polygraphy tells it: node, its two weights, and the product that reads what it writes."""
    step = build_step_model(
        random_source(), tmp_path, form="plugin", weights="fp16", choose_way=always(DECODE)
    )
    told = polygraphy("inspect", "model", step.path, "--show", "layers")
    assert "blocks.1.mlp.fc1.weight [Op: CodebookDecode]" in told
    assert "blocks.1.mlp.fc1.product [Op: MatMul]" in told
    assert "blocks.1.adaLN_modulation.1 [Op: Gemm]" in told
    assert "CodebookGemm" not in told


@pytest.mark.ort
def test_surgeon_keeps_the_numbers(tmp_path):
    step = build_step_model(random_source(), tmp_path, form="inlined")
    changed = tmp_path / "surgeon" / "step.onnx"
    changed.parent.mkdir()
    polygraphy(
        "surgeon", "sanitize", step.path, "-o", changed, "--save-external-data", "step.onnx.data"
    )
    check_model(changed)
    inputs = step_inputs(TINY, 2)
    for found, wanted in zip(run_model(changed, inputs), run_model(step.path, inputs), strict=True):
        assert relative_error(found, wanted) < FP32_RELATIVE


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")
def test_rtx_names_what_it_lacks_for_bare_nodes(tmp_path):
    step = build_step_model(random_source(), tmp_path, form="plugin", weights="fp16")
    told = polygraphy("inspect", "capability", step.path, "-o", tmp_path / "report", rtx="1")
    assert "CodebookGemm" in told
