"""ONNX Runtime sessions: foreign files, missing pieces, the library."""

import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
from tiny_engine import write_step, write_tiny_engine

from vq4dit.errors import ArtifactError, BackendUnavailable, Vq4ditError
from vq4dit.runtime.open_session import _warn_of_function_bodies, native_library
from vq4dit.runtime.ort_session import OrtDecoderSession, OrtStepSession

pytestmark = pytest.mark.ort


@pytest.fixture
def step_path(tmp_path):
    write_step(tmp_path / "step.onnx")
    return tmp_path / "step.onnx"


def test_damaged_model_is_named(step_path):
    data = step_path.read_bytes()
    step_path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError, match="step.onnx: ONNX Runtime .* cannot load it"):
        OrtStepSession(step_path, library=None)


def test_step_model_is_no_decoder(step_path):
    with pytest.raises(ArtifactError, match="input 'timestep' is tensor.* needed one of"):
        OrtDecoderSession(step_path)


def test_foreign_library_is_refused(step_path):
    library = step_path.with_name("libforeign.so")
    library.write_bytes(b"not a library")
    with pytest.raises(BackendUnavailable, match="libforeign.so: onnxruntime .* does not load"):
        OrtStepSession(step_path, library=library)


def test_missing_onnxruntime_says_how_to_get_it(step_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match="pip install onnxruntime"):
        OrtStepSession(step_path, library=None)


def test_missing_library_is_told_once_and_only_where_it_matters(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("vq4dit.plugins.ort_library_path", lambda: None)
    _warn_of_function_bodies.cache_clear()
    onnx = write_tiny_engine(tmp_path / "tiny")
    dense = replace(onnx, target="cpu", bits_per_weight={"blocks.0.attn.qkv": 32.0})
    quantized = replace(dense, bits_per_weight={"blocks.0.attn.qkv": 2.1})
    with caplog.at_level(logging.WARNING):
        assert native_library(onnx) is None and native_library(dense) is None
        assert caplog.records == []
        assert native_library(quantized) is None and native_library(quantized) is None
    assert len(caplog.records) == 1 and "function bodies" in caplog.text


def test_failing_run_is_one_line(tmp_path):
    write_tiny_engine(tmp_path / "tiny")
    session = OrtDecoderSession(tmp_path / "tiny" / "decoder.onnx", threads=1)
    with pytest.raises(Vq4ditError, match="ONNX Runtime failed while it ran the model"):
        session.decode(np.zeros((1, 4, 9, 8), np.float32))


def test_decoder_maps_latents_to_pictures(tmp_path):
    write_tiny_engine(tmp_path / "tiny")
    session = OrtDecoderSession(tmp_path / "tiny" / "decoder.onnx", threads=1)
    latent = np.linspace(-2, 2, 256, dtype=np.float32).reshape(1, 4, 8, 8)
    image = session.decode(latent)
    assert image.shape == (1, 1, 16, 16)
    assert image[0, 0, 1, 0] == pytest.approx(np.tanh(latent[0, 2, 0, 0]))
