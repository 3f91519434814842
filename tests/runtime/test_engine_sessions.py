"""Observing the runs of an engine's sessions; loading and freeing is tested with the pipeline."""

import numpy as np
import pytest

from vq4dit.errors import OptionError
from vq4dit.runtime.pipeline import Pipeline
from vq4dit.runtime.profiling.inputs import step_inputs

pytestmark = pytest.mark.ort


@pytest.mark.parametrize("low_memory", [False, True])
def test_every_run_is_told_while_the_block_lasts(engine_dir, low_memory):
    told = []
    with Pipeline(engine_dir, threads=1, low_memory=low_memory) as pipeline:
        with pipeline.sessions.observed(lambda *run: told.append(run)):
            pipeline([0, 1], steps=2, batch_size=1)
        pipeline(0, steps=1)
    decodes = 2
    assert [what for what, _, _ in told] == ["step"] * 4 + ["decode"] * decodes
    times = [moment for _, begin, end in told for moment in (begin, end)]
    assert times == sorted(times)


def test_no_second_observer(engine_dir):
    with Pipeline(engine_dir, threads=1) as pipeline:
        with pipeline.sessions.observed(lambda *run: None):
            with pytest.raises(OptionError, match="observed already"):
                with pipeline.sessions.observed(lambda *run: None):
                    pass
        with pipeline.sessions.observed(lambda *run: None):
            assert pipeline(0, steps=1).shape[0] == 1


def test_a_closed_engine_gives_no_session(engine_dir):
    pipeline = Pipeline(engine_dir, threads=1)
    inputs = step_inputs(pipeline.manifest, 1)
    latent, _ = pipeline.sessions.run_step(inputs)
    assert np.array_equal(latent, pipeline.sessions.step.run(inputs)[0])
    assert pipeline.sessions.decoder is not None
    pipeline.close()
    for use in (
        lambda: pipeline.sessions.step,
        lambda: pipeline.sessions.decoder,
        lambda: pipeline.sessions.run_step(inputs),
        lambda: pipeline.sessions.decode([inputs.latent]),
    ):
        with pytest.raises(OptionError, match="closed"):
            use()
