"""`low_memory`: the same pictures with one model loaded at a time."""

import numpy as np
import pytest

from vq4dit.errors import OptionError
from vq4dit.runtime import open_session
from vq4dit.runtime.pipeline import Pipeline

pytestmark = pytest.mark.ort

LABELS = [3, 1, 4, 1, 5]


@pytest.fixture
def loads(monkeypatch):
    """Log of models loaded (+) and freed (-)."""
    log = []

    def recording(kind, sign):
        class Recording(kind):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                log.append("+" + sign)

            def close(self):
                super().close()
                log.append("-" + sign)

        return Recording

    for name, sign in (("OrtStepSession", "step"), ("OrtDecoderSession", "decoder")):
        kind = recording(getattr(open_session, name), sign)
        monkeypatch.setattr(open_session, name, kind)
    return log


def test_one_model_at_a_time(engine_dir, loads):
    with Pipeline(engine_dir, threads=1, verify=True, low_memory=True) as pipeline:
        pipeline(LABELS, steps=2, batch_size=2)
        pipeline(LABELS, steps=2, batch_size=2)
    once = ["+step", "-step", "+decoder", "-decoder"]
    assert loads == once * 3  # the self-test, and two calls with three batches each


def test_both_models_stay_loaded_otherwise(engine_dir, loads):
    with Pipeline(engine_dir, threads=1, verify=True) as pipeline:
        pipeline(LABELS, steps=2, batch_size=2)
    assert loads == ["+step", "+decoder", "-step", "-decoder"]


def test_pictures_are_the_same(engine_dir):
    images = []
    for low_memory in (False, True):
        with Pipeline(engine_dir, threads=1, low_memory=low_memory) as pipeline:
            images.append(pipeline(LABELS, steps=3, seed=7, batch_size=3))
    assert images[0].shape[0] == len(LABELS)
    np.testing.assert_array_equal(*images)


def test_closed_pipeline_loads_nothing(engine_dir, loads):
    pipeline = Pipeline(engine_dir, threads=1, low_memory=True)
    pipeline.close()
    with pytest.raises(OptionError, match="closed"):
        pipeline.decode(np.zeros((1, 4, 8, 8), np.float32))
    assert loads == ["+step", "-step"]
