"""Predicted profiles: sums, structure, labels, and what may not be predicted."""

import json

import pytest
from tiny_engine import CONFIG, write_tiny_engine

from vq4dit.accounting import size_from_shapes
from vq4dit.errors import OptionError
from vq4dit.model_config import PRESETS
from vq4dit.plugins.cuda.efficiency import UNCALIBRATED
from vq4dit.plugins.cuda.gpu_table import GPUS
from vq4dit.prediction import predict, profile_table
from vq4dit.prediction.step_ops import step_ops

XL = PRESETS["DiT-XL/2"]


def test_operations_of_a_step_do_the_published_work():
    """DiT-XL/2 at 256: 118.6 Gflops a forward pass (Peebles & Xie 2023, table 1), in MACs."""
    ops = step_ops(XL, 1, cfg=False)
    linears = sum(op.m * op.n * op.k * op.count for op in ops if op.kind == "linear")
    attention = sum(2 * op.m * op.n * op.k for op in ops if op.kind == "attention")
    assert (linears + attention) / 1e9 == pytest.approx(118.6, rel=0.01)


def test_every_block_linear_is_there_once_and_quantized():
    ops = [op for op in step_ops(XL, 1) if op.is_quantized]
    shapes = {op.name: (op.n, op.k) for op in ops if op.count == 1}
    expected = XL.block_linear_shapes()
    assert shapes == {n: s for n, s in expected.items() if "adaLN" not in n}
    (adaln,) = [op for op in ops if op.count > 1]
    assert (adaln.count, adaln.n, adaln.k) == (28, 6912, 1152)


@pytest.mark.parametrize("gpu", list(GPUS))
def test_profile_adds_up_and_is_labelled(gpu):
    profile = predict("DiT-XL/2", gpu, 1)
    values = json.loads(json.dumps(profile.to_dict(), allow_nan=False))
    assert (values["label"], values["calibration"]) == ("predicted", UNCALIBRATED)
    for weights in ("fp16", "2bit"):
        total = sum(layer["microseconds"][weights] for layer in values["layers"]) / 1e3
        assert values["step_ms"][weights] == pytest.approx(total)
        assert sum(values["parts_ms"][weights].values()) == pytest.approx(total)
        assert sum(values["kinds_ms"][weights].values()) == pytest.approx(total)


def test_memory_is_that_of_the_accounting():
    memory = predict("DiT-XL/2", "orin-agx", 1, weights=("fp16", "2bit", "3bit")).memory
    for bits in (2, 3):
        assert memory[f"{bits}bit"].weights_bytes == size_from_shapes(XL, bits).total_bytes
    assert memory["fp16"].weights_bytes == pytest.approx(2 * 675.1e6, rel=1e-3)
    assert len({m.activations_bytes for m in memory.values()}) == 1


def test_decoded_weights_take_memory_and_less_time():
    """Thor's library multiplies four times as fast as mma.sync: most linears are decoded there."""
    chosen, gathered = (
        predict("DiT-XL/2", "thor", 8, weights=("fp16", "2bit"), may_decode=may_decode)
        for may_decode in (True, False)
    )
    names = {x.name for x in chosen.layers if "decode_then_gemm" in x.kernel["2bit"]}
    assert "blocks.5.mlp.fc1" in names and "blocks.adaLN_modulation.1" not in names
    assert names <= set(XL.block_linear_shapes())
    assert chosen.step_ms("2bit") < gathered.step_ms("2bit")
    assert chosen.step_ms("fp16") == gathered.step_ms("fp16")
    memory = chosen.memory["2bit"]
    assert memory.decoded_bytes == 2 * XL.hidden_size * XL.mlp_size
    assert memory.total_bytes - memory.decoded_bytes == gathered.memory["2bit"].total_bytes
    assert chosen.memory["fp16"].decoded_bytes == gathered.memory["2bit"].decoded_bytes == 0


def test_engine_directory_gives_model_and_guidance(tmp_path):
    write_tiny_engine(tmp_path / "tiny", cfg=False)
    profile = predict(tmp_path / "tiny", "thor", 3, weights=("fp16",))
    assert (profile.model, profile.cfg, profile.batch) == ("tiny", False, 3)
    (embedder,) = [layer for layer in profile.layers if layer.name == "x_embedder"]
    assert (embedder.m, embedder.n) == (3 * CONFIG.num_tokens, CONFIG.hidden_size)


def test_table_says_predicted_first_and_fits_a_terminal():
    lines = profile_table(predict("DiT-B/4", "h100", 4, weights=("fp16", "1bit", "2bit")))
    assert lines[0] == f"PREDICTED, {UNCALIBRATED}"
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:1] == ["sum"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("DiT-XL/2", "v100", 1), "'v100' is not in the table"),
        (("DiT-XL/3", "thor", 1), "'DiT-XL/3' is unknown"),
        (("DiT-XL/2", "thor", 0), "batch is 0"),
    ],
)
def test_what_is_unknown_is_refused(arguments, match):
    with pytest.raises(OptionError, match=match):
        predict(*arguments)
    with pytest.raises(OptionError, match="needed fp16, 1bit"):
        predict("DiT-XL/2", "thor", 1, weights=("int8",))
