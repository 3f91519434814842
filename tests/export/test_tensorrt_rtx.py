"""The inlined form through TensorRT-RTX's parser and builder, on the CPU.

Of the quantized weights only the packed bytes may be in the engine: its size is what can be seen.
"""

from dataclasses import replace
from importlib.util import find_spec

import pytest
from support_export import TINY, decoded, random_source
from support_tensorrt_rtx import build_engine

from vq4dit.export.step import build_step_model
from vq4dit.plugins.layout import PORTABLE_LAYOUTS

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="module tensorrt_rtx is not installed"
)

#: Wide enough that the weights outweigh the 3 MB of kernels and constants in an engine.
WIDE = replace(TINY, hidden_size=512, num_heads=8)
MIXED = {"adaLN": 1, "attn.qkv": 3, "blocks.1.mlp": 4}


def sizes(source):
    """Bytes of the packed assignments and of the same weights in float16."""
    layers = source.layers.values()
    packed = sum(layer.assignments.nbytes for layer in layers)
    return packed, sum(2 * layer.out_features * layer.layout.in_features for layer in layers)


def test_the_engine_keeps_the_assignments_packed(tmp_path):
    engines, packed = {}, {}
    for bits in (1, 4):
        source = random_source(WIDE, bits=bits, row_groups=3)
        packed[bits], half = sizes(source)
        step = build_step_model(source, tmp_path / str(bits), form="inlined")
        result = build_engine(step.path)
        assert result["parsed"] and not result["errors"], result
        engines[bits] = result["engine_bytes"]
        assert 0 < engines[bits] < half
    difference = packed[4] - packed[1]
    assert 0.9 * difference < engines[4] - engines[1] < 1.2 * difference


@pytest.mark.parametrize("layout", PORTABLE_LAYOUTS)
def test_layers_of_the_same_and_of_different_configuration(tmp_path, layout):
    source = random_source(bits=MIXED, row_groups=3)
    step = build_step_model(source, tmp_path, form="inlined", assignment_layout=layout)
    result = build_engine(step.path)
    assert result["parsed"], result
    assert result["engine_bytes"] > 0


def test_a_dense_model_without_guidance_or_variance(tmp_path):
    source = decoded(random_source(replace(TINY, learn_sigma=False)))
    result = build_engine(build_step_model(source, tmp_path, cfg=False).path)
    assert result["parsed"], result
    assert result["engine_bytes"] > 0


@pytest.mark.parametrize(
    "form, message", [("function", "value_string"), ("plugin", "Plugin not found")]
)
def test_the_other_forms_are_refused(tmp_path, form, message):
    """The day that one of these passes, the form `inlined` may be given up."""
    result = build_engine(build_step_model(random_source(), tmp_path, form=form).path)
    assert result["parsed"] is False
    assert message in result["errors"][0]
