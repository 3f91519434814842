"""Decoders of both kinds through TensorRT-RTX's parser and builder, on the CPU."""

from importlib.util import find_spec

import pytest
from support_tensorrt_rtx import build_engine
from support_vae import make_tiny_vae, make_vae

from vq4dit.export.decoder import build_decoder_model

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="module tensorrt_rtx is not installed"
)


@pytest.mark.parametrize("weights", ["fp32", "fp16"])
@pytest.mark.parametrize("make", [make_vae, make_tiny_vae])
def test_a_decoder_builds(tmp_path, make, weights):
    make(tmp_path / "vae")
    decoder = build_decoder_model(
        tmp_path / "vae", tmp_path / "out", latent_size=8, weights=weights
    )
    result = build_engine(decoder.path)
    assert result["parsed"] and not result["errors"], result
    assert result["engine_bytes"] > 0
