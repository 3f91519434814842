from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_calibrate import QUICK, TINY, save_checkpoint

from vq4dit.accounting import size_from_shapes, size_from_weights
from vq4dit.calibrate.allocation import Option, allocate_bits, solve
from vq4dit.calibrate.artifact import Artifact
from vq4dit.calibrate.precision import Precision, num_weights
from vq4dit.calibrate.recipe import RECIPES
from vq4dit.calibrate.run import calibrate
from vq4dit.cli import main
from vq4dit.errors import OptionError
from vq4dit.model_config import PRESETS

SHORT = replace(
    QUICK, soft_steps=2, batch_size=4, distill_steps=2, distill_batch_size=4, pool_tokens=32
)

#: Wide enough that assignments, not codebooks, are most of a linear's bytes.
WIDE = replace(TINY, hidden_size=128, depth=3)
UNIFORM = {bits: size_from_shapes(WIDE, bits).bits_per_weight for bits in (1, 2, 3, 4)}


def made_up_sensitivity(config=WIDE, seed=0):
    """Errors that fall by about 4 per bit, with very different sizes and some noise."""
    found = {}
    for number, name in enumerate(config.block_linear_shapes()):
        noise = [1 + ((seed + 7 * number + 3 * bits) % 5) / 10 for bits in (1, 2, 3, 4)]
        size = 10.0 ** -((seed + number * 3) % 5)
        found[name] = {b: size * noise[b - 1] * 4.0**-b for b in (1, 2, 3, 4)}
    return found


def allocate(target, keep=(), config=WIDE, seed=0):
    precision = Precision(target_bits=target, keep=keep)
    return allocate_bits(config, precision, made_up_sensitivity(config, seed))


@pytest.mark.parametrize("target", [1.8, 2.2, 2.5, 3.1, 3.9])
def test_budget_is_respected_and_nearly_used(target):
    allocation = allocate(target)
    assert target - 0.05 < allocation.bits_per_weight <= target
    assert set(allocation.bits) == set(WIDE.block_linear_shapes())


def test_more_bits_are_never_predicted_worse():
    targets = [UNIFORM[1] + (UNIFORM[4] - UNIFORM[1]) * i / 40 for i in range(41)]
    errors = [allocate(target).predicted_error for target in targets]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_at_a_uniform_budget_no_worse_than_uniform(bits, seed):
    allocation = allocate(UNIFORM[bits], seed=seed)
    assert allocation.predicted_error <= allocation.uniform_error[bits] * (1 + 1e-12)
    assert allocation.bits_per_weight <= UNIFORM[bits] + 1e-9


def test_adaln_linears_share_one_configuration():
    bits = allocate(2.4).bits
    assert len({b for name, b in bits.items() if name.endswith("adaLN_modulation.1")}) == 1
    assert len(set(bits.values())) > 1
    pinned = allocate(2.4, keep=(("blocks.0.adaLN*", "4"),)).bits
    assert pinned["blocks.0.adaLN_modulation.1"] == 4


def test_the_largest_dit_is_allocated_exactly():
    config = PRESETS["DiT-XL/2"]
    uniform = size_from_shapes(config, 2).bits_per_weight
    allocation = allocate(uniform, config=config)
    assert uniform - 1e-3 < allocation.bits_per_weight <= uniform + 1e-9
    assert allocation.predicted_error <= allocation.uniform_error[2]


option = st.tuples(st.integers(0, 40), st.floats(0, 10))


@given(st.lists(st.lists(option, min_size=1, max_size=4), min_size=1, max_size=4), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_solution_is_the_best_of_all(groups, share):
    options = {
        str(number): [Option(bits=i, bytes=b, error=e) for i, (b, e) in enumerate(of)]
        for number, of in enumerate(groups)
    }
    low = sum(min(o.bytes for o in of) for of in options.values())
    high = sum(max(o.bytes for o in of) for of in options.values())
    budget = low + int(share * (high - low))
    chosen = solve(options, budget)
    assert sum(o.bytes for o in chosen.values()) <= budget
    fitting = [c for c in product(*options.values()) if sum(o.bytes for o in c) <= budget]
    best = min(sum(o.error for o in c) for c in fitting)
    assert sum(o.error for o in chosen.values()) == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_the_last_pattern_that_matches_counts():
    precision = Precision(keep=(("blocks.1.*", "fp16"), ("*.mlp.fc1", "4")))
    pinned = precision.pinned(TINY)
    assert pinned["blocks.1.attn.qkv"] is None
    assert pinned["blocks.1.mlp.fc1"] == pinned["blocks.0.mlp.fc1"] == 4
    assert "blocks.0.attn.qkv" not in pinned


def test_dense_linears_count_against_the_budget():
    allocation = allocate(4.0, keep=(("blocks.0.attn.*", "fp16"),))
    assert allocation.bits["blocks.0.attn.qkv"] is None
    assert 3.9 < allocation.bits_per_weight <= 4.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_bits": 0.5}, r"target bits is 0.5; this model can have 1\.\d+ to 4\.\d+ bits"),
        ({"target_bits": 9}, r"target bits is 9; this model can have 1\.\d+ to 4\.\d+ bits"),
        ({"target_bytes": 1000}, r"target size is 0.001 MB; .* can have 0\.\d+ to 0\.\d+ MB"),
        ({"target_bytes": 10**9}, r"target size is 1000.000 MB; .* can have 0\.\d+ to 0\.\d+ MB"),
        (
            {"target_bits": 2, "keep": (("blocks.0.*", "fp16"),)},
            "this model, with what is kept, can have 6",
        ),
        ({"keep": (("attn.qkv", "4"),)}, "no linear has such a name; there are blocks.0.adaLN_mod"),
        ({"keep": (("*", "fp16"),)}, "nothing to quantize"),
        ({"keep": (("*", "2"),), "target_bits": 2}, "keep decides every linear"),
        ({"keep": (("*", "fp32"),)}, "'fp32' is unknown; needed one of fp16, 1, 2, 3, 4"),
        ({"target_bits": 2, "target_bytes": 10}, "give one of them"),
        ({"target_bits": float("nan")}, "needed a positive number"),
        ({"target_bytes": 0}, "needed a positive number"),
    ],
)
def test_impossible_wishes_are_refused_before_any_work(tmp_path, values, message):
    checkpoint = save_checkpoint(tmp_path / "dit.safetensors", WIDE)
    with pytest.raises(OptionError, match=message):
        calibrate(checkpoint, tmp_path / "x.vq.safetensors", recipe=SHORT, **values)
    assert [p.name for p in tmp_path.iterdir()] == ["dit.safetensors"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A calibrated artifact with exceptions and a budget, and its summary."""
    folder = tmp_path_factory.mktemp("mixed")
    checkpoint = save_checkpoint(folder / "dit.safetensors", WIDE)
    keep = (("blocks.0.attn.proj", "fp16"), ("blocks.2.mlp.fc2", "4"))
    path = folder / "x.vq.safetensors"
    summary = calibrate(checkpoint, path, recipe=SHORT, keep=keep, target_bits=3.0)
    return checkpoint, path, summary


def test_artifact_is_what_was_allocated(mixed):
    _, path, summary = mixed
    artifact = Artifact(path)
    bits = summary.allocation["bits"]
    size = size_from_weights(artifact)
    for layer in size.layers:
        assert layer.bits == (bits[layer.name] or 32)  # dense ones are given in float32
    assert bits["blocks.0.attn.proj"] is None
    assert bits["blocks.2.mlp.fc2"] == 4
    assert len({b for b in bits.values() if b}) > 1
    num_bytes = sum(summary.layer_bytes.values()) + 2 * 128 * 128
    assert 8 * num_bytes / num_weights(WIDE) == pytest.approx(summary.allocation["bits_per_weight"])
    assert 2.9 < summary.allocation["bits_per_weight"] <= 3.0
    calibration = artifact.info.calibration
    assert calibration["allocation"] == summary.allocation
    assert calibration["target_bits"] == 3.0
    assert calibration["keep"] == [["blocks.0.attn.proj", "fp16"], ["blocks.2.mlp.fc2", "4"]]
    assert set(summary.seconds) == {"trajectories", "sensitivity", "blocks", "distillation"}


def test_dense_linears_are_the_checkpoints(mixed):
    checkpoint, path, _ = mixed
    from vq4dit.calibrate.source import open_checkpoint

    name = "blocks.0.attn.proj.weight"
    expected = open_checkpoint(checkpoint).tensor(name).astype("float16")
    assert (Artifact(path).tensor(name) == expected).all()


@pytest.mark.parametrize("target", ["onnx", "cpu"])
def test_engine_of_a_mixed_artifact_equals_torch(mixed, tmp_path, target, capsys):
    from vq4dit.engines.build import build_engine

    _, path, summary = mixed
    manifest = build_engine(Artifact(path), tmp_path / "engine", target=target)
    assert manifest.bits_per_weight["blocks.0.attn.proj"] == 32.0
    assert manifest.bits_per_weight["blocks.2.mlp.fc2"] > 4.0
    assert main(["verify", str(tmp_path / "engine"), "--against", str(path), "--quiet"]) == 0
    assert "FAILED" not in capsys.readouterr().out
    assert summary.allocation["bits"]["blocks.0.attn.proj"] is None


class _Stop(Exception):
    pass


def test_an_interrupted_measurement_goes_on(mixed, tmp_path):
    checkpoint, path, _ = mixed
    keep = (("blocks.0.attn.proj", "fp16"), ("blocks.2.mlp.fc2", "4"))
    output = tmp_path / "x.vq.safetensors"
    measured = []

    def stop(stage, done, total, **values):
        if stage == "sensitivity" and done > total / 2:
            raise _Stop

    def count(stage, done, total, **values):
        if stage == "sensitivity":
            measured.append(done)

    options = {"recipe": SHORT, "keep": keep, "target_bits": 3.0}
    with pytest.raises(_Stop):
        calibrate(checkpoint, output, progress=stop, **options)
    calibrate(checkpoint, output, progress=count, resume=True, **options)
    assert measured[0] == 16  # the first block was not measured again
    assert measured[-1] == 13 * 4
    assert output.read_bytes() == path.read_bytes()


def test_kmeans_can_be_allocated_to_a_file_size(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "dit.safetensors", WIDE)
    recipe = replace(RECIPES["kmeans"], kmeans_iterations=2, num_trajectories=2, trajectory_steps=3)
    output = tmp_path / "x.vq.safetensors"
    summary = calibrate(checkpoint, output, recipe=recipe, target_bytes=500_000)
    assert 0.93 * 500_000 < output.stat().st_size <= 500_000
    assert set(summary.seconds) == {"trajectories", "sensitivity", "blocks"}


def test_exceptions_need_no_budget(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "dit.safetensors")
    output = tmp_path / "x.vq.safetensors"
    keep = (("blocks.1.*", "fp16"),)  # a whole block
    summary = calibrate(checkpoint, output, recipe=SHORT, bits=3, keep=keep)
    assert set(summary.weight_error) == {n for n in TINY.block_linear_shapes() if ".0." in n}
    assert set(Artifact(output).info.layouts) == set(summary.weight_error)
    assert summary.allocation is None
