"""The builder's process seen from outside: a stand-in for the worker plays its events and ends."""

import os
import textwrap

import pytest

from vq4dit.engines import plan_builder
from vq4dit.engines.plan_builder import run_job
from vq4dit.engines.plan_job import PlanJob
from vq4dit.errors import ArtifactError, BackendUnavailable, OptionError, Vq4ditError

JOB = PlanJob(
    target="tensorrt-rtx", onnx_path="x/step.onnx", plan_path="y/step.plan",
    profile={"latent": ((1, 4, 8, 8), (2, 4, 8, 8), (4, 4, 8, 8)), "label": ((1,), (2,), (4,))},
    compute_capabilities=("8.6", "8.9"), workspace_bytes=1 << 30,
)  # fmt: skip


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A function that makes these lines of Python the worker."""

    def make(code):
        (tmp_path / "stand_in.py").write_text("import json, os, sys\n" + textwrap.dedent(code))
        monkeypatch.setattr(plan_builder, "_WORKER", "stand_in")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return make


def test_jobs_survive_the_way():
    assert PlanJob.from_json(JOB.to_json()) == JOB


@pytest.mark.parametrize(("target", "rtx"), [("tensorrt", "0"), ("tensorrt-rtx", "1")])
def test_job_environment_and_version(worker, monkeypatch, target, rtx):
    monkeypatch.setenv("POLYGRAPHY_USE_TENSORRT_RTX", "other")
    worker("""
        job = json.loads(sys.stdin.read())
        version = job["target"] + os.environ["POLYGRAPHY_USE_TENSORRT_RTX"]
        print(json.dumps({"event": "done", "version": version}))
    """)
    assert run_job(PlanJob.from_json(JOB.to_json().replace(JOB.target, target))) == target + rtx


def test_progress_is_that_of_outer_phases(worker):
    worker("""
        def say(event, **values):
            print(json.dumps({"event": event, **values}), flush=True)
        say("start", phase="Building", parent=None, steps=2)
        say("start", phase="Tactics", parent="Building", steps=9)
        say("step", phase="Tactics", step=0)
        say("finish", phase="Tactics")
        say("step", phase="Building", step=0)
        say("finish", phase="Building")
        say("done", version="1")
    """)
    told = []
    run_job(JOB, lambda *event: told.append(event))
    assert told == [("Building", 0, 2), ("Building", 1, 2), ("Building", 2, 2)]


def test_a_refusal_has_the_builders_reason(worker):
    worker("""
        print("[W] something else", file=sys.stderr)
        print("[E] node 7 (Foo): no creator", file=sys.stderr)
        print(json.dumps({"event": "error", "message": "Could not parse", "kind": ""}))
        sys.exit(1)
    """)
    with pytest.raises(ArtifactError) as caught:
        run_job(JOB)
    assert str(caught.value).startswith(
        "the tensorrt-rtx builder refused step.onnx: Could not parse; [E] node 7 (Foo): no creator;"
    )


@pytest.mark.parametrize("kind", [OSError, OptionError, BackendUnavailable])
def test_other_errors_stay_what_they_are(worker, kind):
    worker(f"""
        print(json.dumps({{"event": "error", "message": "as it was", "kind": "{kind.__name__}"}}))
        sys.exit(1)
    """)
    with pytest.raises(kind) as caught:
        run_job(JOB)
    assert str(caught.value) == "as it was" and type(caught.value) is kind


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.abort()", "ended by signal 6 while it built step.onnx"),
        ("print('terminate called', file=sys.stderr); os._exit(3)", "code 3.*terminate called"),
        ("sys.exit(0)", "ended with exit code 0"),
    ],
)
def test_a_builder_that_dies(worker, code, message):
    worker(code)
    with pytest.raises(Vq4ditError, match=message):
        run_job(JOB)


def test_an_interrupt_ends_the_builder_too(worker, tmp_path):
    worker("""
        print(json.dumps({"event": "start", "phase": str(os.getpid()), "parent": None, "steps": 1}),
              flush=True)
        import time; time.sleep(60)
    """)
    seen = []

    def interrupt(phase, done, steps):
        seen.append(int(phase))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(JOB, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)
