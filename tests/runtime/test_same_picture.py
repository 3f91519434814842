"""One seed and index give the same bits: real kernels and decoder, any batch, order and threads.

Another target gives the same picture within a tolerance.
"""

import numpy as np
import pytest
from support_export import random_source
from support_vae import make_vae
from tolerances import OTHER_TARGET_LATENT, OTHER_TARGET_LEVELS

from vq4dit.engines.build import build_engine
from vq4dit.plugins import ort_library_path
from vq4dit.runtime.pipeline import Pipeline
from vq4dit.runtime.selftest import relative_error

pytestmark = pytest.mark.ort

LABELS = [0, 1, 2, 3, 4, 0, 1, 2]
OPTIONS = {"steps": 3, "sampler": "ddpm", "seed": 3}


@pytest.fixture(scope="module")
def engine_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("engines")
    make_vae(root / "vae")
    source = random_source(bits={"adaLN": 3, "fc2": 4}, row_groups=3)
    build_engine(source, root / "engine", target="cpu", vae=root / "vae")
    return root / "engine"


@pytest.fixture(scope="module")
def expected(engine_dir):
    """Latents and pictures of one batch of 8 on one thread, by accuracy."""
    results = {}
    for accuracy in ("fast", "exact"):
        with Pipeline(engine_dir, accuracy=accuracy, threads=1) as pipeline:
            latents = pipeline(LABELS, batch_size=8, output="latent", **OPTIONS)
            results[accuracy] = (latents, pipeline(LABELS, batch_size=8, **OPTIONS))
    return results


@pytest.mark.parametrize("accuracy", ["fast", "exact"])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_bits_do_not_depend_on_batch_order_or_threads(
    engine_dir, expected, accuracy, threads, batch_size
):
    if ort_library_path() is None:
        pytest.skip("the native library is not installed")
    order = np.random.default_rng(batch_size).permutation(len(LABELS))
    options = {**OPTIONS, "samples": order, "batch_size": batch_size}
    labels = np.array(LABELS)[order]
    with Pipeline(engine_dir, accuracy=accuracy, threads=threads) as pipeline:
        latents = pipeline(labels, output="latent", **options)
        images = pipeline(labels, **options)
    assert np.array_equal(latents, expected[accuracy][0][order])
    assert np.array_equal(images, expected[accuracy][1][order])


@pytest.mark.parametrize("accuracy", ["fast", "exact"])
def test_another_target_gives_the_same_picture_up_to_its_arithmetic(
    engine_dir, expected, accuracy, tmp_path
):
    if ort_library_path() is None:
        pytest.skip("the native library is not installed")
    source = random_source(bits={"adaLN": 3, "fc2": 4}, row_groups=3)
    build_engine(source, tmp_path / "engine", target="onnx", vae=engine_dir.parent / "vae")
    with Pipeline(tmp_path / "engine", threads=1) as pipeline:
        latents = pipeline(LABELS, output="latent", **OPTIONS)
        images = pipeline(LABELS, **OPTIONS)
    assert relative_error(expected[accuracy][0], latents) <= OTHER_TARGET_LATENT[accuracy]
    levels = np.abs(expected[accuracy][1].astype(int) - images).max()
    assert levels <= OTHER_TARGET_LEVELS
