from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file
from support_calibrate import TINY, random_state

from vq4dit import atomic_file
from vq4dit.calibrate.artifact import Artifact, ArtifactInfo, save_artifact
from vq4dit.calibrate.source import open_weights
from vq4dit.errors import ArtifactError
from vq4dit.plugins import Layout, QuantizedLayer
from vq4dit.plugins.layout import layout_from_bits
from vq4dit.plugins.packing import pack_assignments


def _content(bits=2, seed=0):
    rng = np.random.default_rng(seed)
    layers, layouts = {}, {}
    for name, (rows, columns) in TINY.block_linear_shapes().items():
        layout = layout_from_bits(columns, bits)
        size, length = layout.codebook_size, layout.sub_vector_len
        groups = 3 if name.endswith("qkv") else 1
        indices = rng.integers(0, size, (rows, layout.num_sub_vectors))
        layouts[name] = layout
        layers[name] = QuantizedLayer(
            codebook=rng.standard_normal((groups, size, length)).astype(np.float16),
            assignments=pack_assignments(indices, layout),
            bias=rng.standard_normal(rows).astype(np.float16),
            layout=layout,
        )
    dense = {
        name: tensor.numpy()
        for name, tensor in random_state().items()
        if name.rpartition(".")[0] not in layers
    }
    info = ArtifactInfo(
        config=TINY,
        layouts=layouts,
        source_sha256="ab" * 32,
        label_names=("a", "b", "c"),
        latent_scaling_factor=0.5,
        calibration={"seed": seed},
    )
    return info, layers, dense


def _read_everything(path):
    found = Artifact(path)
    for name in TINY.block_linear_shapes():
        found.quantized_layer(name)
    for name in TINY.tensor_shapes():
        if name.rpartition(".")[0] not in found.info.layouts:
            found.tensor(name)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_round_trip_is_exact(tmp_path, bits):
    info, layers, dense = _content(bits)
    save_artifact(tmp_path / "x.vq.safetensors", info, layers, dense)
    found = open_weights(tmp_path / "x.vq.safetensors")
    assert isinstance(found, Artifact)
    assert found.info == info
    for name, layer in layers.items():
        read = found.quantized_layer(name)
        assert read.layout == layer.layout
        for part in ("codebook", "assignments", "bias"):
            np.testing.assert_array_equal(getattr(read, part), getattr(layer, part))
    for name, tensor in dense.items():
        np.testing.assert_array_equal(found.tensor(name), tensor.astype(np.float16))


def test_same_content_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_artifact(tmp_path / name, *_content())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("seed", range(8))
def test_any_flipped_bit_is_found(tmp_path, seed):
    path = tmp_path / "x.vq.safetensors"
    save_artifact(path, *_content())
    raw = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    header = struct.unpack("<Q", raw[:8])[0] + 8
    place = int(rng.integers(0, header) if seed % 2 else rng.integers(header, len(raw)))
    raw[place] ^= 1 << int(rng.integers(0, 8))
    path.write_bytes(raw)
    print("seed", seed, "byte", place, "of", len(raw), "header", header)
    try:
        info = Artifact(path).info
    except ArtifactError:
        return
    if place >= header:
        with pytest.raises(ArtifactError, match="sha256|damaged"):
            _read_everything(path)
    else:  # a letter of a label name or of a setting may change without harm to any weight
        assert info != _content()[0] or path.read_bytes() == bytes(raw)
        assert info.config == TINY
        assert info.layouts == _content()[0].layouts


@pytest.mark.parametrize("keep", [0, 4, 200, 0.5, 0.999])
def test_truncated_file(tmp_path, keep):
    path = tmp_path / "x.vq.safetensors"
    save_artifact(path, *_content())
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw)) if isinstance(keep, float) else keep])
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        open_weights(path)


def _rewrite(path, change_metadata=lambda v: v, change_tensors=lambda t: t):
    """Write the file again with other content, as an attacker or a buggy tool would."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        values = json.loads(file.metadata()["vq4dit"])
    values = change_metadata(values)
    save_file(change_tensors(tensors), path, metadata={"vq4dit": json.dumps(values)})


def _set(values, key, value):
    values[key] = value
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: _set(v, "format_version", 99), "format version 99"),
        (lambda v: _set(v, "layers", []), "metadata is damaged"),
        (lambda v: _set(v, "label_names", ["a"]), "1 label names, needed 3"),
        (lambda v: _set(v, "latent_scaling_factor", "x"), "metadata is damaged"),
        (lambda v: {k: v[k] for k in v if k != "config"}, "metadata is damaged"),
        (lambda v: _set(v, "config", {**v["config"], "depth": 3}), "missing"),
        (lambda v: _set(v, "config", {**v["config"], "depth": "2"}), "depth is '2'"),
        (lambda v: _set(v, "config", {**v["config"], "hidden_size": 64}), "needed"),
        (lambda v: _set(v, "config", {**v["config"], "extra": 1}), "unknown keys"),
        (lambda v: [v], "metadata is damaged"),
    ],
)
def test_damaged_metadata(tmp_path, change, message):
    path = tmp_path / "x.vq.safetensors"
    save_artifact(path, *_content())
    _rewrite(path, change_metadata=change)
    with pytest.raises(ArtifactError, match=message):
        Artifact(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blocks.0.attn.qkv.assignments", np.zeros((96, 7), np.int8), r"I8 \(96, 7\), needed I8"),
        ("blocks.0.attn.qkv.assignments", np.zeros((96, 8), np.uint8), "U8"),
        ("blocks.0.attn.qkv.codebook", np.zeros((5, 256, 4), np.float16), "5 row groups"),
        ("blocks.0.attn.qkv.codebook", np.zeros((3, 255, 4), np.float16), "needed F16"),
        ("blocks.0.attn.qkv.codebook", np.zeros((3, 256, 4), np.float32), "F32"),
        ("pos_embed", np.zeros((1, 4, 32), np.int32), "I32"),
        ("pos_embed", np.zeros((4, 32), np.float16), r"\(4, 32\)"),
    ],
)
def test_wrong_shapes_and_dtypes(tmp_path, name, value, message):
    path = tmp_path / "x.vq.safetensors"
    save_artifact(path, *_content())
    _rewrite(path, change_tensors=lambda t: _set(t, name, value))
    with pytest.raises(ArtifactError, match=message):
        Artifact(path)


def test_assignment_out_of_range_is_named(tmp_path):
    info, layers, dense = _content(bits=4)
    name = "blocks.1.mlp.fc2"
    layout = Layout(in_features=128, codebook_size=200, sub_vector_len=2)
    layers[name] = QuantizedLayer(
        codebook=np.zeros((1, 200, 2), np.float16),
        assignments=np.full((32, 64), 71, np.int8),  # byte 199, the last valid one
        bias=np.zeros(32, np.float16),
        layout=layout,
    )
    layers[name].assignments[5, 6] = 72  # byte 200
    info = ArtifactInfo(
        config=info.config, layouts={**info.layouts, name: layout}, source_sha256="ab" * 32
    )
    save_artifact(tmp_path / "x.vq.safetensors", info, layers, dense)
    with pytest.raises(ArtifactError, match=r"mlp\.fc2: assignment at row 5, sub-vector 6 is 200"):
        Artifact(tmp_path / "x.vq.safetensors").quantized_layer(name)


def test_layer_kept_dense_by_choice(tmp_path):
    info, layers, dense = _content()
    name = "blocks.0.mlp.fc1"
    del layers[name]
    layouts = {k: v for k, v in info.layouts.items() if k != name}
    dense |= {f"{name}.{p}": random_state()[f"{name}.{p}"].numpy() for p in ("weight", "bias")}
    info = ArtifactInfo(config=TINY, layouts=layouts, source_sha256="ab" * 32)
    save_artifact(tmp_path / "x.vq.safetensors", info, layers, dense)
    found = Artifact(tmp_path / "x.vq.safetensors")
    assert found.quantized_layer(name) is None
    assert found.tensor(f"{name}.weight").shape == (128, 32)
    with pytest.raises(ArtifactError, match="not a dense tensor"):
        found.tensor("blocks.0.mlp.fc2.weight")


def test_disk_full_leaves_nothing(tmp_path, monkeypatch):
    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    target = tmp_path / "x.vq.safetensors"
    save_artifact(target, *_content(seed=1))
    before = target.read_bytes()
    monkeypatch.setattr(atomic_file.os, "fsync", no_space)
    with pytest.raises(ArtifactError, match="No space left.*nothing was left"):
        save_artifact(target, *_content())
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


def test_refuses_to_write_nan(tmp_path):
    info, layers, dense = _content()
    dense["pos_embed"] = np.full((1, 4, 32), np.nan, np.float32)
    with pytest.raises(ArtifactError, match="pos_embed holds NaN"):
        save_artifact(tmp_path / "x", info, layers, dense)
    assert not list(tmp_path.iterdir())


def test_values_beyond_float16_stay_float32(tmp_path):
    info, layers, dense = _content()
    dense["pos_embed"] = np.full((1, 4, 32), 1e6, np.float32)
    save_artifact(tmp_path / "x.safetensors", info, layers, dense)
    assert (Artifact(tmp_path / "x.safetensors").tensor("pos_embed") == 1e6).all()


def test_plain_safetensors_is_no_artifact(tmp_path):
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(ArtifactError, match="not an artifact"):
        Artifact(tmp_path / "x.safetensors")
