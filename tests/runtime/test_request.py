"""Checks in front of a request that a whole pipeline does not reach."""

from dataclasses import replace

import pytest
from tiny_engine import write_tiny_engine

from vq4dit.errors import OptionError
from vq4dit.runtime.request import batch_slices, check_can_decode, resolved_cfg_scale

pytestmark = pytest.mark.ort


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_tiny_engine(tmp_path_factory.mktemp("engines") / "tiny", decoder=False)


def test_pixel_models_need_no_decoder(manifest):
    for channels in (1, 3):
        assert check_can_decode(replace(manifest, latent_shape=(channels, 8, 8))) is None
    with pytest.raises(OptionError, match="4 channels.*--vae"):
        check_can_decode(manifest)


@pytest.mark.parametrize(
    ("num", "size", "low", "high", "stops"),
    [(5, None, 1, None, [5]), (20, None, 1, None, [16, 20]), (5, 2, 1, None, [2, 4, 5]),
     (5, None, 1, 3, [3, 5]), (40, None, 32, 64, [32, 40])],
)  # fmt: skip
def test_batches_cover_the_request(manifest, num, size, low, high, stops):
    limited = replace(manifest, batch_min=low, batch_max=high)
    slices = list(batch_slices(num, size, limited))
    assert [s.stop for s in slices] == stops
    assert [s.start for s in slices] == [0, *stops[:-1]]


def test_batch_size_is_limited_by_the_engine(manifest):
    with pytest.raises(OptionError, match=r"batch_size is 4, needed an integer in 1\.\.3"):
        list(batch_slices(5, 4, replace(manifest, batch_max=3)))


def test_default_guidance(manifest):
    assert resolved_cfg_scale(None, manifest) == 4.0
    assert resolved_cfg_scale(None, replace(manifest, cfg=False)) == 1.0
