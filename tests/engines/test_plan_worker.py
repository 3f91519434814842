"""The worker itself: full TensorRT's configuration on its real bindings, real builds with RTX."""

import resource
from importlib.util import find_spec
from pathlib import Path

import pytest
from support_export import TINY, random_source
from support_tensorrt import needs_bindings, run_with_bindings

from vq4dit.engines.plan_builder import run_job
from vq4dit.engines.plan_engine import step_profile
from vq4dit.engines.plan_job import PlanJob
from vq4dit.errors import ArtifactError, BackendUnavailable, OptionError
from vq4dit.export.step import build_step_model

SCRIPT = Path(__file__).parents[1] / "tensorrt_config.py"

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None or find_spec("polygraphy") is None,
    reason="needs tensorrt_rtx and polygraphy",
)


@needs_bindings
@pytest.mark.skipif(find_spec("polygraphy") is None, reason="polygraphy is not installed")
def test_configuration_of_full_tensorrt(tmp_path):
    shapes = ((1, 4, 8, 8), (2, 4, 8, 8), (4, 4, 8, 8))
    job = PlanJob(
        target="tensorrt", onnx_path="", plan_path="", profile={"latent": shapes},
        compute_capabilities=("8.7",), workspace_bytes=1 << 28,
        timing_cache=str(tmp_path / "timing"), version_compatible=True,
    )  # fmt: skip
    told = run_with_bindings(SCRIPT, job.to_json())["told"]
    assert told[0] == ["set_shape", "latent", *map(str, shapes)]
    assert ["set_memory_pool_limit", "MemoryPoolType.WORKSPACE", str(1 << 28)] in told
    assert ["set_flag", "BuilderFlag.VERSION_COMPATIBLE"] in told
    assert ["clear_flag", "BuilderFlag.TF32"] in told
    names = [name for name, *_ in told]
    assert {"add_optimization_profile", "set_timing_cache", "progress_monitor"} <= set(names)


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="tensorrt is installed")
@pytest.mark.skipif(find_spec("polygraphy") is None, reason="polygraphy is not installed")
def test_bindings_that_do_not_import_are_told(tmp_path):
    job = PlanJob(
        target="tensorrt", onnx_path="step.onnx", plan_path="", profile={},
        compute_capabilities=("8.7",),
    )  # fmt: skip
    with pytest.raises(BackendUnavailable, match="module tensorrt does not import .No module"):
        run_job(job)


@needs_bindings
@pytest.mark.skipif(find_spec("polygraphy") is None, reason="polygraphy is not installed")
def test_a_library_that_does_not_load_is_told(tmp_path):
    """By the real registry of TensorRT 11.4: it gives None."""
    (tmp_path / "library.so").write_bytes(b"for another processor")
    script = tmp_path / "child.py"
    script.write_text(
        "import json, sys\n"
        "from support_tensorrt import import_tensorrt\n"
        "import_tensorrt()\n"
        "from vq4dit.engines.plan_job import PlanJob\n"
        "from vq4dit.engines.plan_worker import build_plan\n"
        "try:\n"
        "    build_plan(PlanJob.from_json(sys.argv[1]), None)\n"
        "except RuntimeError as error:\n"
        "    print(json.dumps([type(error).__name__, str(error)]))\n"
    )
    job = PlanJob(
        target="tensorrt", onnx_path="step.onnx", plan_path="", profile={},
        compute_capabilities=("8.7",), plugin="library",
        plugin_library=str(tmp_path / "library.so"),
    )  # fmt: skip
    kind, message = run_with_bindings(script, job.to_json())
    assert kind == "BackendUnavailable"
    assert "library.so: TensorRT 11.4" in message and "does not load the library; build" in message


@pytest.mark.skipif(find_spec("polygraphy") is None, reason="polygraphy is not installed")
def test_an_old_tensorrt_is_told(tmp_path, monkeypatch):
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text('__version__ = "8.6.1.post1"\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = PlanJob(
        target="tensorrt", onnx_path="step.onnx", plan_path="", profile={},
        compute_capabilities=("8.7",),
    )  # fmt: skip
    with pytest.raises(BackendUnavailable, match="TensorRT 8.6.1.post1 is too old, needed 10.0"):
        run_job(job)


def rtx_job(tmp_path, *, form="inlined", capabilities=("8.6",)):
    step = build_step_model(random_source(), tmp_path, form=form, weights="fp16")
    return PlanJob(
        target="tensorrt-rtx", onnx_path=str(step.path), plan_path=str(tmp_path / "step.plan"),
        profile=step_profile(TINY, (1, 1, 1)), compute_capabilities=capabilities,
    )  # fmt: skip


@needs_rtx
def test_real_build_tells_progress_and_version(tmp_path):
    told = []
    version = run_job(rtx_job(tmp_path), lambda *event: told.append(event))
    assert version[0].isdigit() and (tmp_path / "step.plan").stat().st_size > 1e5
    phase, _, steps = told[0]
    assert told[0] == (phase, 0, steps) and told[-1] == (phase, steps, steps)


@needs_rtx
def test_bare_nodes_are_refused_by_name(tmp_path):
    with pytest.raises(ArtifactError, match="refused step.onnx: .*CodebookGemm.*Plugin not found"):
        run_job(rtx_job(tmp_path, form="plugin"))
    assert not (tmp_path / "step.plan").exists()


@needs_rtx
def test_unknown_gpu_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(OptionError, match="8.7 .sm_87. is not among those that .*8.6, 8.9"):
        run_job(rtx_job(tmp_path, capabilities=("8.7",)))


@needs_rtx
@pytest.mark.parametrize("name", ["step.onnx", "step.onnx.data"])
def test_truncated_model_is_refused(tmp_path, name):
    job = rtx_job(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ArtifactError, match="builder refused step.onnx"):
        run_job(job)


@needs_rtx
def test_full_disk_is_an_error_of_the_disk(tmp_path):
    """A limit on the size of files stands for a disk that is full."""
    job = rtx_job(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run_job(job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step.onnx", "step.onnx.data"]
