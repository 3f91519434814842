"""Noise drawn while the engine runs: the same bits, and no thread is left behind."""

import threading

import numpy as np
import pytest

from vq4dit.errors import Cancelled, OptionError
from vq4dit.runtime.noise import gaussian_noise
from vq4dit.runtime.noise_ahead import MIN_ELEMENTS, THREAD_NAME, NoiseAhead
from vq4dit.runtime.pipeline import Pipeline

SHAPE = (4, 8, 8)
BATCH = -(-MIN_ELEMENTS // 256)
OPTIONS = {"steps": 5, "sampler": "ddpm", "seed": 11, "num_images": BATCH, "batch_size": BATCH}


def noise_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


@pytest.fixture
def pipeline(engine_dir):
    with Pipeline(engine_dir, threads=1) as opened:
        yield opened


@pytest.fixture
def drawing_threads(monkeypatch):
    """Names of the threads that drew noise, by step."""
    names = {}

    def recording(seed, samples, step, shape):
        names[step] = threading.current_thread().name
        return gaussian_noise(seed, samples, step, shape)

    monkeypatch.setattr("vq4dit.runtime.sampling.gaussian_noise", recording)
    return names


def callers_noise(step, samples):
    return gaussian_noise(OPTIONS["seed"], samples, step, SHAPE)


@pytest.mark.ort
@pytest.mark.parametrize("options", [{}, {"sampler": "ddim", "eta": 0.7}, {"steps": 1}])
def test_the_same_bits_as_in_the_callers_thread(pipeline, drawing_threads, options):
    options = {**OPTIONS, **options}
    ahead = pipeline(3, output="latent", **options)
    used = {step for step, name in drawing_threads.items() if name.startswith(THREAD_NAME)}
    assert used == set(range(1, options["steps"] - 1))
    here = pipeline(3, output="latent", noise=callers_noise, **options)
    assert np.array_equal(ahead, here)
    assert noise_threads() == []


@pytest.mark.ort
@pytest.mark.parametrize("options", [{"sampler": "ddim"}, {"num_images": BATCH - 1}])
def test_no_thread_where_it_is_not_worth_one(pipeline, drawing_threads, options):
    seen = []
    pipeline(3, callback=lambda report: seen.extend(noise_threads()), **{**OPTIONS, **options})
    assert seen == []
    assert set(drawing_threads.values()) == {threading.current_thread().name}


@pytest.mark.ort
def test_a_callers_noise_stays_in_the_callers_thread(pipeline):
    threads = set()

    def noise(step, samples):
        threads.add(threading.current_thread())
        return callers_noise(step, samples)

    pipeline(3, noise=noise, **OPTIONS)
    assert threads == {threading.current_thread()}


@pytest.mark.ort
def test_no_thread_is_left_after_cancelling_or_an_error(pipeline):
    event, seen = threading.Event(), []

    def stop(report):
        seen.extend(noise_threads())
        event.set()

    with pytest.raises(Cancelled):
        pipeline(3, callback=stop, cancel=event, **OPTIONS)
    assert len(seen) == 1 and noise_threads() == []

    def fail(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(3, callback=fail, **OPTIONS)
    assert noise_threads() == []


@pytest.mark.ort
def test_calls_at_once_do_not_mix_their_noise(pipeline):
    expected = [pipeline(3, output="latent", **{**OPTIONS, "seed": seed}) for seed in range(3)]
    found = {}

    def draw(seed):
        found[seed] = pipeline(3, output="latent", **{**OPTIONS, "seed": seed})

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[seed], expected[seed]) for seed in range(3))
    assert noise_threads() == []


def test_an_error_of_drawing_comes_to_the_caller():
    def draw(step):
        raise OptionError(f"no noise for step {step}")

    with NoiseAhead(draw) as noise:
        noise.begin(4)
        with pytest.raises(OptionError, match="step 4"):
            noise.take(4)
    assert noise_threads() == []


def test_a_step_that_was_not_begun_is_drawn_at_once():
    with NoiseAhead(lambda step: np.full(1, step, np.float32)) as noise:
        noise.begin(1)
        assert noise.take(2) == 2 and noise.take(1) == 1
