"""The pipeline on a hand-made engine: sampling, batches, labels, damaged files."""

import json
import threading

import numpy as np
import pytest
from tiny_engine import CONFIG, NAMES, toy_step, write_tiny_engine
from tolerances import FP32_RELATIVE

from vq4dit.engines.manifest import MANIFEST_NAME
from vq4dit.errors import ArtifactError, BackendUnavailable, OptionError, Vq4ditError
from vq4dit.runtime.noise import INITIAL_STEP, gaussian_noise
from vq4dit.runtime.pipeline import Pipeline
from vq4dit.runtime.samplers import SAMPLERS, coefficient_table
from vq4dit.runtime.schedule import linear_alpha_bar, spaced_schedule
from vq4dit.runtime.selftest import relative_error
from vq4dit.runtime.session import StepInputs

pytestmark = pytest.mark.ort

LABELS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module")
def pipeline(engine_dir):
    with Pipeline(engine_dir, threads=1, verify=True) as opened:
        yield opened


@pytest.fixture
def own_engine(tmp_path):
    """An engine that a test may damage."""
    directory = tmp_path / "tiny"
    write_tiny_engine(directory)
    return directory


def _expected_latents(labels, *, sampler, steps, cfg_scale, seed):
    """The same loop in NumPy, on all samples at once."""
    samples, n = np.arange(len(labels)), len(labels)
    schedule = spaced_schedule(steps, linear_alpha_bar())
    table = coefficient_table(sampler, schedule).astype(np.float32)
    latent = gaussian_noise(seed, samples, INITIAL_STEP, (4, 8, 8))
    history = np.zeros_like(latent)
    for i in range(steps):
        latent, history = toy_step(
            StepInputs(
                latent=latent,
                timestep=np.full(n, schedule.timesteps[i], np.float32),
                label=np.array(labels),
                cfg_scale=np.full(n, cfg_scale, np.float32),
                coefficients=np.tile(table[i], (n, 1)),
                noise=gaussian_noise(seed, samples, i, (4, 8, 8)),
                history=history,
            )
        )
    return latent


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_latents_equal_a_numpy_loop(pipeline, sampler):
    found = pipeline(LABELS, steps=7, cfg_scale=2.5, sampler=sampler, seed=11, output="latent")
    expected = _expected_latents(LABELS, sampler=sampler, steps=7, cfg_scale=2.5, seed=11)
    assert relative_error(found, expected) <= FP32_RELATIVE


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_pictures_do_not_depend_on_the_batch_size(pipeline, batch_size):
    expected = pipeline(LABELS, steps=4, sampler="ddpm", seed=5)
    found = pipeline(LABELS, steps=4, sampler="ddpm", seed=5, batch_size=batch_size)
    assert expected.shape == (8, 16, 16, 1) and expected.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_a_picture_depends_on_its_position_and_can_be_drawn_alone(pipeline):
    all_of_them = pipeline(LABELS, steps=3, seed=2)
    alone = pipeline(LABELS[4], steps=3, seed=2, samples=4)
    moved = pipeline(LABELS[4], steps=3, seed=2)
    assert np.array_equal(alone[0], all_of_them[4])
    assert not np.array_equal(moved[0], all_of_them[4])


def test_seeds_give_different_pictures(pipeline):
    assert not np.array_equal(pipeline(0, steps=2, seed=0), pipeline(0, steps=2, seed=2**63))


def test_labels_by_name_number_and_repetition(pipeline):
    expected = pipeline([2, 7, 2, 7, 2], steps=2, output="latent")
    named = pipeline([NAMES[2], "class 7"], steps=2, num_images=5, output="latent")
    array = pipeline(np.array([2, 7, 2, 7, 2], np.int32), steps=2, output="latent")
    assert np.array_equal(named, expected) and np.array_equal(array, expected)


def test_given_latents_are_the_start(pipeline):
    start = gaussian_noise(9, np.arange(2), INITIAL_STEP, (4, 8, 8))
    assert np.array_equal(
        pipeline([1, 2], steps=2, latents=start, output="latent"),
        pipeline([1, 2], steps=2, seed=9, output="latent"),
    )


def test_threads_share_a_pipeline(pipeline):
    expected = [pipeline(LABELS, steps=5, seed=s) for s in range(3)]
    found = [None] * 3

    def draw(s):
        found[s] = pipeline(LABELS, steps=5, seed=s)

    threads = [threading.Thread(target=draw, args=(s,)) for s in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(f, e) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": 10}, r"label 10 is out of range 0\.\.9"),
        ({"labels": -1}, "out of range"),
        ({"labels": "dog"}, "label 'dog' is unknown; needed 0..9 or one of: class 0"),
        ({"labels": [1.5]}, "neither an integer nor a name"),
        ({"labels": [True]}, "neither"),
        ({"labels": []}, "empty"),
        ({"steps": 0}, r"steps is 0, needed 1\.\.1000"),
        ({"steps": 1001}, "steps is 1001"),
        ({"steps": 2.0}, "needed an integer"),
        ({"sampler": "euler"}, "sampler 'euler' is unknown; needed one of ddim, ddpm"),
        ({"sampler": "ddpm", "eta": 0.5}, "has none"),
        ({"eta": 1.5}, r"needed 0\.\.1"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"seed": 1.0}, "needed an integer"),
        ({"cfg_scale": float("nan")}, "cfg_scale is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_images": 0}, "num_images is 0"),
        ({"latents": np.zeros((1, 4, 4, 4))}, r"needed \(1, 4, 8, 8\)"),
        ({"latents": np.full((1, 4, 8, 8), np.nan)}, "NaN"),
        ({"output": "png"}, "output 'png' is unknown"),
        ({"samples": -1}, "samples is -1"),
        ({"samples": 0.5}, "samples is 0.5"),
        ({"samples": [0, 1]}, "2 indices, needed one for each of 1 pictures"),
        ({"samples": [2**32]}, "a sample index is 4294967296"),
        ({"steps": [5, 5]}, "descending"),
        ({"spacing": "quad"}, "spacing 'quad' is unknown; needed one of linspace"),
        ({"batch_size": 2.5}, "batch_size is 2.5, needed an integer"),
    ],
)
def test_bad_options_are_named(pipeline, change, message):
    with pytest.raises(OptionError, match=message):
        pipeline(**{"labels": 0, "steps": 2, **change})


def test_not_a_number_names_the_step(pipeline):
    with pytest.raises(Vq4ditError, match=r"at step 1 of 3 \(t = 999\), sample 0"):
        pipeline(0, steps=3, latents=np.full((1, 4, 8, 8), 3e38))


def test_without_a_decoder_only_latents_come_out(tmp_path):
    write_tiny_engine(tmp_path / "tiny", decoder=False)
    with Pipeline(tmp_path / "tiny", threads=1) as pipeline:
        assert pipeline(0, steps=1, output="latent").shape == (1, 4, 8, 8)
        with pytest.raises(OptionError, match="has no decoder.*--vae"):
            pipeline(0, steps=1)


def test_engine_without_guidance_takes_scale_one_only(tmp_path):
    write_tiny_engine(tmp_path / "tiny", cfg=False)
    with Pipeline(tmp_path / "tiny", threads=1) as pipeline:
        assert len(pipeline(0, steps=1)) == 1
        with pytest.raises(OptionError, match="built without guidance"):
            pipeline(0, steps=1, cfg_scale=2)


def test_closed_pipeline_says_so(own_engine):
    pipeline = Pipeline(own_engine, threads=1)
    pipeline.close()
    pipeline.close()
    with pytest.raises(OptionError, match="closed"):
        pipeline(0, steps=1)


@pytest.mark.parametrize("name", ["step.onnx", "decoder.onnx", "selftest.safetensors"])
def test_damaged_file_is_named(own_engine, name):
    path = own_engine / name
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    with pytest.raises(ArtifactError, match=f"{name}: is {len(good) - 1} bytes"):
        Pipeline(own_engine)
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ArtifactError, match=f"{name}: has SHA-256"):
        Pipeline(own_engine)
    path.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        Pipeline(own_engine)


def _edit_manifest(directory, **changes):
    path = directory / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_engine_for_another_target_is_refused(own_engine):
    _edit_manifest(own_engine, target="npu", form="plugin")
    with pytest.raises(BackendUnavailable, match="'npu', this version runs cpu.*--target cpu"):
        Pipeline(own_engine)


def test_engine_of_another_element_type_is_refused(own_engine):
    _edit_manifest(own_engine, dtypes={"compute": "bfloat16", "label": "int64"})
    with pytest.raises(BackendUnavailable, match="bfloat16 and int64, target onnx runs float32 or"):
        Pipeline(own_engine)


def test_model_with_other_inputs_is_refused(own_engine):
    manifest = json.loads((own_engine / MANIFEST_NAME).read_text())
    manifest["files"]["step"] = manifest["files"]["decoder"]
    del manifest["files"]["decoder"]
    _edit_manifest(own_engine, **manifest)
    manifest["files"].pop("decoder", None)
    (own_engine / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="lacks 'latent_out'"):
        Pipeline(own_engine)


def test_selftest_notices_other_numbers(own_engine):
    from safetensors.numpy import load_file, save_file

    from vq4dit.engine_files import file_entry

    path = own_engine / "selftest.safetensors"
    tensors = load_file(path)
    tensors["x_start"] += 0.1
    save_file(tensors, path)
    manifest = json.loads((own_engine / MANIFEST_NAME).read_text())
    _edit_manifest(own_engine, files={**manifest["files"], "selftest": file_entry(path).to_dict()})
    Pipeline(own_engine, threads=1).close()
    with pytest.raises(ArtifactError, match="self-test"):
        Pipeline(own_engine, threads=1, verify=True)


def test_options_of_the_session_are_checked(engine_dir):
    with pytest.raises(OptionError, match="accuracy 'sloppy'"):
        Pipeline(engine_dir, accuracy="sloppy")
    with pytest.raises(OptionError, match="threads is 0"):
        Pipeline(engine_dir, threads=0)
    with pytest.raises(BackendUnavailable, match="NoSuchProvider"):
        Pipeline(engine_dir, providers=["NoSuchProvider"])


def test_directory_without_manifest_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="not an engine directory"):
        Pipeline(tmp_path)


def test_tiny_engine_is_what_the_tests_think(pipeline):
    assert pipeline.manifest.model == CONFIG
