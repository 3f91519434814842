"""Calls of a pipeline beyond the plain one: reports, cancelling, own noise, any order, checks."""

import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_engine import NAMES, write_tiny_engine

from vq4dit.engine_files import hash_file
from vq4dit.engines.manifest import MANIFEST_NAME, manifest_to_json
from vq4dit.errors import Cancelled, OptionError, Vq4ditError
from vq4dit.runtime.engine_sessions import EngineSessions
from vq4dit.runtime.noise import INITIAL_STEP, gaussian_noise
from vq4dit.runtime.pipeline import Pipeline

pytestmark = pytest.mark.ort

LABELS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module")
def pipeline(engine_dir):
    with Pipeline(engine_dir, threads=1) as opened:
        yield opened


def test_reports_tell_every_step_of_every_batch(pipeline):
    reports = []
    final = pipeline(LABELS, steps=2, batch_size=3, callback=reports.append, output="latent")
    assert [(r.done, r.total, r.step, r.t) for r in reports] == [
        (2 * b + i + 1, 6, i, t) for b in range(3) for i, t in enumerate([999, 0])
    ]
    assert [r.samples.tolist() for r in reports[::2]] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert np.array_equal(np.concatenate([r.latents for r in reports[1::2]]), final)
    # Every sampler ends on its last estimate.
    assert np.allclose(np.concatenate([r.x_start for r in reports[1::2]]), final, rtol=1e-5)


def test_a_preview_is_the_decoded_estimate(pipeline):
    previews = []
    images = pipeline(LABELS[:2], steps=3, callback=lambda r: previews.append(r.preview()))
    assert [p.shape for p in previews] == [(2, 16, 16, 1)] * 3
    assert np.abs(previews[-1].astype(int) - images).max() <= 1  # the same up to rounding
    assert not np.array_equal(previews[0], previews[-1])


def test_what_a_callback_raises_ends_the_call(pipeline):
    seen = []

    def stop(report):
        seen.append(report.step)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(0, steps=2, callback=stop)
    assert seen == [0]


def test_an_event_cancels_between_steps(pipeline):
    event, seen = threading.Event(), []

    def cancel_after_two(report):
        seen.append(report.done)
        if report.done == 2:
            event.set()

    with pytest.raises(Cancelled, match="before step 3 of 5"):
        pipeline(0, steps=5, callback=cancel_after_two, cancel=event)
    assert seen == [1, 2]
    with pytest.raises(Cancelled, match="before step 1 of 5"):
        pipeline(0, steps=5, cancel=event)
    assert len(pipeline(0, steps=5, cancel=threading.Event())) == 1


def test_an_event_cancels_before_decoding(pipeline):
    event = threading.Event()

    def cancel_at_the_end(report):
        if report.done == report.total:
            event.set()

    with pytest.raises(Cancelled, match="before decoding"):
        pipeline(0, steps=2, callback=cancel_at_the_end, cancel=event)


def test_another_thread_can_cancel(pipeline):
    event, started, errors = threading.Event(), threading.Event(), []

    def draw():
        try:
            pipeline(0, steps=1000, callback=lambda report: started.set(), cancel=event)
        except Cancelled as error:
            errors.append(error)

    thread = threading.Thread(target=draw)
    thread.start()
    assert started.wait(timeout=30)
    event.set()
    thread.join(timeout=30)
    assert not thread.is_alive() and len(errors) == 1


def test_closing_ends_a_call_of_another_thread(engine_dir):
    started, errors = threading.Event(), []
    pipeline = Pipeline(engine_dir, threads=1)

    def draw():
        try:
            pipeline(0, steps=1000, callback=lambda report: started.set())
        except OptionError as error:
            errors.append(str(error))

    thread = threading.Thread(target=draw)
    thread.start()
    assert started.wait(timeout=30)
    pipeline.close()
    thread.join(timeout=30)
    assert not thread.is_alive() and len(errors) == 1 and "closed" in errors[0]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_own_noise_takes_the_place_of_seeded_noise(pipeline, sampler):
    options = {"steps": 4, "sampler": sampler, "output": "latent", "seed": 6}
    options["eta"] = 1.0 if sampler == "ddim" else 0.0
    asked = []

    def same(step, samples):
        asked.append((step, samples.tolist()))
        return gaussian_noise(6, samples, step, (4, 8, 8))

    def other(step, samples):
        return gaussian_noise(7, samples, step, (4, 8, 8)).astype(np.float64)

    seeded = pipeline(LABELS[:3], batch_size=2, **options)
    assert np.array_equal(pipeline(LABELS[:3], batch_size=2, noise=same, **options), seeded)
    assert asked == [(i, s) for s in ([0, 1], [2]) for i in range(3)]  # the last step needs none
    assert not np.array_equal(pipeline(LABELS[:3], noise=other, **options), seeded)


def test_misshaped_noise_is_named(pipeline):
    with pytest.raises(OptionError, match=r"shape \(1,\) at step 0, needed \(1, 4, 8, 8\)"):
        pipeline(0, steps=3, sampler="ddpm", noise=lambda step, samples: [0.0])


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_order_changes_nothing(pipeline, batch_size):
    options = {"steps": 4, "sampler": "ddpm", "seed": 5}
    order = np.random.default_rng(0).permutation(len(LABELS))
    expected = pipeline(LABELS, **options)
    found = pipeline(
        np.array(LABELS)[order], samples=order, batch_size=batch_size, **options
    )  # fmt: skip
    assert np.array_equal(found, expected[order])


def test_own_timesteps_are_a_spacing_written_out(pipeline):
    leading = pipeline(LABELS, steps=4, spacing="leading", output="latent")
    own = pipeline(LABELS, steps=[750, 500, 250, 0], output="latent")
    assert np.array_equal(own, leading)
    assert not np.array_equal(pipeline(LABELS, steps=4, output="latent"), leading)


@pytest.mark.parametrize("num_images", [1, 3, 4, 9])
def test_small_batches_are_filled_up_where_the_engine_needs_it(tmp_path, num_images):
    manifest = write_tiny_engine(tmp_path / "tiny")
    expected_dir = tmp_path / "tiny"
    with Pipeline(expected_dir, threads=1) as pipeline:
        expected = pipeline([1, 2], steps=3, num_images=num_images, sampler="ddpm")
        start = gaussian_noise(4, np.arange(num_images), INITIAL_STEP, (4, 8, 8))
        from_start = pipeline([1, 2], steps=3, num_images=num_images, latents=start)
    limited = replace(manifest, batch_min=4, batch_max=6)
    (expected_dir / MANIFEST_NAME).write_bytes(manifest_to_json(limited))
    sizes, reported = [], []
    with Pipeline(expected_dir, threads=1) as pipeline:
        step = pipeline.sessions.step.run
        pipeline.sessions.step.run = lambda inputs: sizes.append(len(inputs.latent)) or step(inputs)
        found = pipeline(
            [1, 2], steps=3, num_images=num_images, sampler="ddpm",
            callback=lambda report: reported.append(len(report.latents)),
        )  # fmt: skip
        again = pipeline([1, 2], steps=3, num_images=num_images, latents=start)
    assert np.array_equal(found, expected) and np.array_equal(again, from_start)
    assert all(4 <= size <= 6 for size in sizes) and max(reported) <= num_images


def sessions(load_step, load_decoder):
    """Sessions of a backend of the test's own."""
    return EngineSessions(
        Path("engine"), load_step=load_step, load_decoder=load_decoder, low_memory=False
    )


def test_constant_latents_name_the_step(pipeline, monkeypatch):
    class Flat:
        def run(self, inputs):
            flat = np.zeros_like(inputs.latent) + (inputs.timestep[:, None, None, None] > 500)
            flat[0] += inputs.latent[0]
            return flat, flat

        def close(self):
            pass

    monkeypatch.setattr(pipeline, "sessions", sessions(Flat, None))
    with pytest.raises(Vq4ditError, match=r"constant at step 1 of 3 \(t = 999\), sample 11"):
        pipeline([0, 1], steps=3, samples=10)


@pytest.mark.parametrize(
    ("value", "what"), [(0.0, "constant"), (7.0, "constant"), (np.nan, "NaN or infinite")]
)
def test_pictures_that_show_nothing_name_the_step(pipeline, monkeypatch, value, what):
    class Flat:
        def decode(self, latent):
            pictures = np.zeros((len(latent), 1, 16, 16), np.float32)
            pictures[0, 0, 0, 0] = 0.5
            pictures[1:] = value
            return pictures

        def close(self):
            pass

    step = pipeline.sessions.step
    monkeypatch.setattr(pipeline, "sessions", sessions(lambda: step, Flat))
    with pytest.raises(Vq4ditError, match=f"picture is {what} after step 3 of 3, sample 5"):
        pipeline([0, 1], steps=3, samples=4)
    with pytest.raises(Vq4ditError) if np.isnan(value) else nullcontext():
        assert pipeline.decode(np.zeros((2, 4, 8, 8), np.float32)).shape == (2, 16, 16, 1)


def test_description_draws_the_same_picture_again(pipeline, engine_dir):
    options = {"labels": [2, 7], "steps": 5, "seed": 3, "num_images": 4, "spacing": "trailing"}
    text = pipeline.describe(**options)
    assert (text["labels"], text["label_names"]) == ("2,7,2,7", f"{NAMES[2]}; {NAMES[7]}")
    assert (text["samples"], text["steps"], text["spacing"]) == ("0-3", "5", "trailing")
    assert (text["cfg_scale"], text["seed"], text["accuracy"]) == ("4", "3", "fast")
    assert text["engine_sha256"] == hash_file(engine_dir / MANIFEST_NAME)
    assert text["source_sha256"] == "0" * 64 and text["software"].startswith("vq4dit ")
    third = pipeline(
        int(text["labels"].split(",")[2]), steps=int(text["steps"]), seed=int(text["seed"]),
        cfg_scale=float(text["cfg_scale"]), spacing=text["spacing"], samples=2,
    )  # fmt: skip
    assert np.array_equal(third[0], pipeline(**options)[2])


def test_description_of_one_label_and_own_timesteps(pipeline):
    text = pipeline.describe(4, steps=[900, 10], num_images=2, samples=[7, 5])
    assert (text["labels"], text["label_names"], text["samples"]) == ("4", NAMES[4], "7,5")
    assert (text["spacing"], text["timesteps"], text["steps"]) == ("own", "900,10", "2")
