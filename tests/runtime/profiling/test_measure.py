"""Profiles of whole engines: what is in them, side by side, and what a backend's hook changes."""

from types import SimpleNamespace

import numpy as np
import pytest
from profile_document import nodes
from tiny_engine import write_tiny_engine

from vq4dit.errors import ArtifactError, BackendUnavailable, OptionError
from vq4dit.runtime.pipeline import Pipeline
from vq4dit.runtime.profiling import engine_under_test, layers, measure
from vq4dit.runtime.profiling.engine_under_test import EngineUnderTest
from vq4dit.runtime.profiling.event_cost import EventCost
from vq4dit.runtime.profiling.layers import step_layers
from vq4dit.runtime.profiling.measure import profile_engines
from vq4dit.runtime.profiling.options import ProfileOptions
from vq4dit.runtime.profiling.peaks import Peaks
from vq4dit.runtime.profiling.report import report_html
from vq4dit.runtime.profiling.table import profile_text
from vq4dit.runtime.profiling.timed_sessions import timed

pytestmark = pytest.mark.ort

PEAKS = Peaks(threads=1, gflops=10.0, gbytes_per_s=10.0)
COST = EventCost(per_node_us=0.0, per_tensor_us=0.0, renaming_us=0.0)
QUICK = ProfileOptions(
    batches=(1, 2), steps=3, warmup=1, repeats=8, image_repeats=2, threads=1, memory=False
)


@pytest.fixture(scope="module")
def profile(engine_dir):
    """One run of everything but memory, with the machine's figures given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "measure_peaks", lambda threads: PEAKS)
        patch.setattr(measure, "measure_event_cost", lambda: COST)
        told = []
        found = profile_engines(
            [engine_dir, engine_dir],
            QUICK,
            progress=lambda what, done, total: told.append((done, total)),
        )
    return found, told


def test_progress_counts_up_to_the_end(profile):
    _, told = profile
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total in told} == {len(told)}


def test_every_figure_is_there(profile):
    document = profile[0].document
    assert [e["name"] for e in document["engines"]] == ["tiny (1)", "tiny (2)"]
    for result in document["engines"]:
        assert result["step"]["count"] == len(result["step"]["runs_ms"]) == 8
        assert [row["batch"] for row in result["throughput"]] == [1, 2]
        assert result["image"]["count"] == 2 and result["image"]["steps"] == 3
        assert result["decode"]["count"] == 2
        assert result["host_overhead_per_step"]["count"] == 2 * (3 - 1)
        assert result["layers"]["account"]["num_nodes"] > 20
        assert result["decoder_layers"]["parts"][0]["part"] == "decoder"
        assert result["load_seconds"] > 0 and "memory" not in result
    assert document["options"]["batches"] == [1, 2]
    figures = [row["figure"] for row in document["comparison"]]
    assert "step, median" in figures and "peak memory" not in figures


def test_a_picture_is_no_shorter_than_its_steps_and_gaps(profile):
    for trace in profile[0].traces:
        inside = sum(trace.steps.seconds) + sum(trace.steps.gaps) + sum(trace.decodes.seconds)
        assert 0 < inside <= trace.end - trace.begin
        assert len(trace.steps.seconds) == 3 and len(trace.nodes) > 20


def test_engines_take_turns_picture_by_picture(engine_dir, monkeypatch):
    drawn = []
    monkeypatch.setattr(EngineUnderTest, "time_picture", lambda engine: drawn.append(engine.name))
    monkeypatch.setattr(EngineUnderTest, "note_pictures", lambda engine: None)
    with EngineUnderTest("a", engine_dir, QUICK) as a, EngineUnderTest("b", engine_dir, QUICK) as b:
        engine_under_test.measure_pictures([a, b], QUICK)
    assert drawn == ["a", "b", "a", "b"]


def test_no_layers_no_energy(engine_dir):
    options = ProfileOptions(
        batches=(), steps=1, warmup=0, repeats=3, image_repeats=1, threads=1, layers=False,
        memory=False, energy=False,
    )  # fmt: skip
    document = profile_engines([engine_dir], options).document
    result = document["engines"][0]
    assert result["name"] == "tiny" and document["comparison"] == []
    assert not {"layers", "energy", "memory", "throughput"} & set(result)
    assert result["host_overhead_per_step"] is None


def test_an_engine_without_decoder_gives_latents(tmp_path):
    write_tiny_engine(tmp_path / "engine", decoder=False)
    options = ProfileOptions(
        batches=(), steps=2, repeats=3, image_repeats=1, threads=1, memory=False, layers=False
    )
    result = profile_engines([tmp_path / "engine"], options).document["engines"][0]
    assert result["image"]["output"] == "latent" and result["decode"] is None


def test_engines_of_the_same_name_are_told_apart(tmp_path):
    paths = [tmp_path / "a" / "engine", tmp_path / "b" / "engine"]
    assert measure._names(paths) == ["a/engine", "b/engine"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"batches": (1, -1)}, "batches is -1"),
        ({"steps": 1001}, "steps is 1001"),
        ({"repeats": 0}, "repeats is 0"),
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"seconds": float("nan")}, "seconds is nan"),
    ],
)
def test_options_are_checked(values, message):
    with pytest.raises(OptionError, match=message):
        ProfileOptions(**values)


def test_needs_an_engine(tmp_path):
    with pytest.raises(OptionError, match="no engine directory was given"):
        profile_engines([], QUICK)
    with pytest.raises(ArtifactError, match=r"found no manifest\.json"):
        profile_engines([tmp_path], QUICK)


def test_a_pipeline_is_as_before_after_it_was_timed(engine_dir):
    with Pipeline(engine_dir, threads=1) as pipeline:
        before = pipeline.sessions.step, pipeline.sessions.decoder
        with timed(pipeline) as (steps, decodes):
            pipeline(0, steps=4)
            with pytest.raises(OptionError, match="observed already"), timed(pipeline):
                pass
        pipeline(0, steps=2)
        assert (pipeline.sessions.step, pipeline.sessions.decoder) == before
        assert len(steps.seconds) == 4 and len(steps.gaps) == 3 and len(decodes.seconds) == 1
        assert all(seconds > 0 for seconds in [*steps.seconds, *steps.gaps])


class HookedSession:
    """A backend that times its own layers, as TensorRT does."""

    def __init__(self):
        self.runs = 0

    def run(self, inputs):
        self.runs += 1
        return inputs.latent, inputs.latent

    def node_times(self, inputs, *, repeats):
        return [nodes() for _ in range(repeats)]


def test_a_sessions_own_times_of_layers_are_taken(engine_dir, monkeypatch):
    session = HookedSession()
    with Pipeline(engine_dir, threads=1) as pipeline:
        monkeypatch.setattr(
            pipeline, "sessions", SimpleNamespace(step=session, close=pipeline.sessions.close)
        )
        found, result = step_layers(pipeline, QUICK, peaks=PEAKS, event_cost=COST)
    assert session.runs == QUICK.repeats
    assert [n.duration_us for n in found.nodes] == [n.duration_us for n in nodes()]
    assert {row["part"] for row in result["parts"]} >= {"attention", "MLP", "adaLN"}


def test_a_session_without_times_says_what_to_do(engine_dir, monkeypatch):
    other = SimpleNamespace(run=lambda inputs: None)
    with Pipeline(engine_dir, threads=1) as pipeline:
        monkeypatch.setattr(
            pipeline, "sessions", SimpleNamespace(step=other, close=pipeline.sessions.close)
        )
        with pytest.raises(BackendUnavailable, match="does not tell the times of its layers"):
            step_layers(pipeline, QUICK, peaks=PEAKS, event_cost=COST)


def test_providers_that_only_launch_are_not_timed(engine_dir):
    options = ProfileOptions(providers=("CUDAExecutionProvider",), threads=1)
    with Pipeline(engine_dir, threads=1) as pipeline:
        with pytest.raises(
            BackendUnavailable, match="CUDAExecutionProvider only how long its laun"
        ):
            step_layers(pipeline, options, peaks=PEAKS, event_cost=COST)


def test_a_backend_without_times_is_told_and_the_rest_goes_on(engine_dir, monkeypatch):
    def refuse(*arguments, **more):
        raise BackendUnavailable("no times here")

    monkeypatch.setattr(engine_under_test, "step_layers", refuse)
    monkeypatch.setattr(measure, "measure_peaks", lambda threads: PEAKS)
    monkeypatch.setattr(measure, "measure_event_cost", lambda: COST)
    options = ProfileOptions(
        batches=(), steps=2, repeats=3, image_repeats=1, threads=1, memory=False
    )
    document = profile_engines([engine_dir], options).document
    result = document["engines"][0]
    assert result["layers"] is None and result["layers_why_not"] == "no times here"
    assert "energy" in result and "layers: no times here" in profile_text(document)
    assert "no times here" in report_html(document)


class Counter:
    """A power source that gives one joule more each time it is read."""

    name, is_counter, wraps_at, joules = "counter", True, None, 0.0

    def read(self):
        self.joules += 1.0
        return {"rail": self.joules}


def test_energy_is_shared_out_over_steps_and_pictures(engine_dir, monkeypatch):
    monkeypatch.setattr(engine_under_test, "_ENERGY_SECONDS", 0.05)
    monkeypatch.setattr(engine_under_test, "_IDLE_SECONDS", 0.01)
    options = ProfileOptions(batch=2, steps=10, threads=1)
    with EngineUnderTest("e", engine_dir, options) as under_test:
        under_test.measure_energy([Counter()], [])
    row = under_test.result["energy"]["sources"][0]
    assert row["source"] == "counter" and row["num_steps"] >= 1 and row["joules"] >= 1.0
    assert row["joules_per_step"] == pytest.approx(row["joules"] / row["num_steps"])
    assert row["joules_per_image"] == pytest.approx(row["joules_per_step"] * 10 / 2)
    assert row["idle_watts"] > 0


def test_a_decoder_by_tiles_is_timed_on_one_tile(tmp_path):
    manifest = write_tiny_engine(tmp_path / "engine")
    tiled = SimpleNamespace(**{**vars(manifest), "decoder_tile": 4})
    with Pipeline(tmp_path / "engine", threads=1) as pipeline:
        whole = layers.decoder_layers(pipeline, QUICK, peaks=PEAKS, event_cost=COST)
        pipeline.manifest = tiled
        sizes = []
        with pytest.MonkeyPatch.context() as patch:
            run = layers.OrtDecoderSession.decode
            patch.setattr(
                layers.OrtDecoderSession,
                "decode",
                lambda self, latent: (
                    sizes.append(latent.shape[2:]) or run(self, np.tile(latent, (1, 1, 2, 2)))
                ),
            )
            part = layers.decoder_layers(pipeline, QUICK, peaks=PEAKS, event_cost=COST)
    assert whole["latent_size"] == 8 and part["latent_size"] == 4
    assert set(sizes) == {(4, 4)}
