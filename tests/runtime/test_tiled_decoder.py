"""Tiled decoding: weights, exact inside tiles, bounded where tiles meet, through an engine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_export import TINY, random_source, relative_error
from support_vae import decode, make_tiny_vae, make_vae
from tolerances import FP32_RELATIVE, STEP_RELATIVE

from vq4dit.engines.build import build_engine
from vq4dit.engines.manifest import load_manifest
from vq4dit.errors import ArtifactError, OptionError
from vq4dit.export.decoder import build_decoder_model
from vq4dit.runtime.ort_session import OrtDecoderSession
from vq4dit.runtime.pipeline import Pipeline
from vq4dit.runtime.selftest import IMAGE_LIMIT
from vq4dit.runtime.tiled_decoder import TiledDecoder, blend_weights, tile_starts

pytestmark = pytest.mark.ort


class Repeat:
    """A decoder that repeats each element of a latent: tiles of it fit together without a seam."""

    def __init__(self, factor=2):
        self.factor, self.shapes = factor, []

    def decode(self, latent):
        self.shapes.append(latent.shape)
        return latent[:, :3].repeat(self.factor, axis=2).repeat(self.factor, axis=3)

    def close(self):
        self.shapes.append("closed")


@given(size=st.integers(1, 130), data=st.data())
def test_tiles_cover_the_latent_and_weights_add_up_to_one(size, data):
    tile = data.draw(st.integers(min(2, size), size))
    factor = data.draw(st.sampled_from([1, 2, 8]))
    starts = tile_starts(size, tile)
    assert starts[0] == 0 and starts[-1] == size - tile
    assert all(0 < b - a <= tile - tile // 4 for a, b in zip(starts, starts[1:], strict=False))
    total = np.zeros(size * factor)
    for start, weights in zip(starts, blend_weights(size, tile, factor), strict=True):
        assert weights.shape == (tile * factor,) and (weights >= 0).all()
        total[start * factor : (start + tile) * factor] += weights
    assert np.allclose(total, 1.0, atol=1e-6)


@pytest.mark.parametrize(("size", "tile", "num"), [(64, 32, 3), (64, 64, 1), (8, 4, 3), (10, 7, 2)])
def test_a_decoder_without_context_has_no_seams(size, tile, num):
    latent = np.random.default_rng(0).standard_normal((2, 4, size, size)).astype(np.float32)
    inner = Repeat()
    tiled = TiledDecoder(inner, latent_size=size, tile_size=tile)
    expected = Repeat().decode(latent)
    assert np.allclose(tiled.decode(latent), expected, rtol=0, atol=1e-6)
    assert inner.shapes == [(2, 4, tile, tile)] * num**2
    tiled.close()
    assert inner.shapes[-1] == "closed"


def test_a_decoder_of_another_tile_is_refused():
    class Odd(Repeat):
        def decode(self, latent):
            return super().decode(latent)[:, :, 1:]

    with pytest.raises(ArtifactError, match="7 x 8 from tiles of 4 x 4"):
        TiledDecoder(Odd(), latent_size=8, tile_size=4).decode(np.zeros((1, 4, 8, 8), np.float32))


def _tiled(vae_path, folder, latent, tile):
    decoder = build_decoder_model(vae_path, folder, latent_size=tile)
    session = OrtDecoderSession(decoder.path, threads=1)
    tiled = TiledDecoder(session, latent_size=latent.shape[-1], tile_size=tile)
    return tiled.decode(latent), decoder.image_shape[1] // tile


@pytest.mark.parametrize("kind", ["kl", "tiny"])
def test_inside_its_tile_a_picture_is_that_of_diffusers(tmp_path, kind):
    """And where tiles meet it lies between diffusers' pictures of these tiles."""
    size, tile = 12, 8
    vae = (make_vae if kind == "kl" else make_tiny_vae)(tmp_path / "vae")
    latent = np.random.default_rng(1).standard_normal((1, 4, size, size)).astype(np.float32)
    found, factor = _tiled(tmp_path / "vae", tmp_path / "out", latent, tile)
    assert found.shape[2:] == (size * factor, size * factor)
    low, high = np.full_like(found, np.inf), np.full_like(found, -np.inf)
    count = np.zeros(found.shape[2:], int)
    starts = tile_starts(size, tile)
    assert starts == [0, 4]
    for y in starts:
        for x in starts:
            part = decode(vae, latent[:, :, y : y + tile, x : x + tile].copy())
            place = np.s_[..., y * factor : (y + tile) * factor, x * factor : (x + tile) * factor]
            low[place] = np.minimum(low[place], part)
            high[place] = np.maximum(high[place], part)
            count[place] += 1
    alone = count == 1
    assert relative_error(found[..., alone], low[..., alone]) < STEP_RELATIVE
    scale = np.abs(high).max()
    assert (found >= low - FP32_RELATIVE * scale).all()
    assert (found <= high + FP32_RELATIVE * scale).all()


def test_far_from_edges_tiles_of_a_local_decoder_are_the_whole_picture(tmp_path):
    """AutoencoderTiny sees few pixels around each: here 5 latent elements, and as many pixels."""
    size, tile, reach = 40, 24, 9
    vae = make_tiny_vae(tmp_path / "vae", widths=(4, 4), num_blocks=(1, 1))
    latent = np.random.default_rng(2).standard_normal((1, 4, size, size)).astype(np.float32)
    found, factor = _tiled(tmp_path / "vae", tmp_path / "out", latent, tile)
    whole = decode(vae, latent)
    near_a_seam = np.zeros(size, bool)
    for start in tile_starts(size, tile):
        for edge in (start, start + tile):
            if 0 < edge < size:
                near_a_seam[max(edge - reach, 0) : edge + reach] = True
    assert 0 < near_a_seam.sum() < size
    exact = np.repeat(~near_a_seam, factor)
    inside = np.s_[..., exact, :]
    assert relative_error(found[inside][..., exact], whole[inside][..., exact]) < FP32_RELATIVE
    # Elsewhere the error is that of a tile's edge, which the blending has the less of the nearer.
    assert relative_error(found, whole) < 0.1


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    root = tmp_path_factory.mktemp("engines")
    make_tiny_vae(root / "vae")
    source = random_source()
    for name, tile in (("whole", None), ("tiled", 6)):
        build_engine(source, root / name, target="cpu", vae=root / "vae", vae_tile=tile)
    return root


def test_an_engine_decodes_by_tiles(engines):
    manifest = load_manifest(engines / "tiled")
    assert manifest.decoder_tile == 6 and load_manifest(engines / "whole").decoder_tile is None
    assert manifest.image_shape == (3, 4 * TINY.input_size, 4 * TINY.input_size)
    options = {"steps": 2, "seed": 1, "num_images": 3, "output": "latent"}
    with Pipeline(engines / "tiled", threads=1, verify=True) as pipeline:
        latents = pipeline(0, **options)
        images = pipeline(0, **{**options, "output": "uint8"})
        assert np.array_equal(pipeline.decode(latents), images)
        assert np.array_equal(pipeline.decode(latents[1:2]), images[1:2])
    with Pipeline(engines / "whole", threads=1) as pipeline:
        assert np.array_equal(pipeline(0, **options), latents)
        whole = pipeline.decode(latents)
    assert whole.shape == images.shape
    differences = np.abs(whole.astype(int) - images)
    assert IMAGE_LIMIT < differences.max() and np.median(differences) <= IMAGE_LIMIT


@pytest.mark.parametrize("tile", [0, 3, 8, 9])
def test_bad_tiles(tmp_path, tile):
    with pytest.raises(OptionError, match=rf"tile is {tile}, needed 4\.\.7 for latents of 8 x 8"):
        build_engine(
            random_source(), tmp_path / "e", target="cpu", vae=tmp_path / "vae", vae_tile=tile
        )


def test_a_tile_needs_a_vae(tmp_path):
    with pytest.raises(OptionError, match="no VAE"):
        build_engine(random_source(), tmp_path / "e", target="cpu", vae_tile=4)
