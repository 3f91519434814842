"""The GPU acceptance run without a GPU: dry run, resuming, stage B's questions, the report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vq4dit.errors import ArtifactError, Vq4ditError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import gpu_acceptance  # noqa: E402
from acceptance import cuda_driver, stage_a, stage_b, steps  # noqa: E402
from acceptance.cases import all_cases  # noqa: E402
from acceptance.report import render  # noqa: E402
from acceptance.results import FAILED, MISSING, PREPARED, RAN, Results  # noqa: E402

sys.path.remove(str(BENCHMARKS))

CASES = {case.name: case for case in all_cases()}


def run_program(tmp_path, *options):
    command = [sys.executable, str(BENCHMARKS / "gpu_acceptance.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)


def test_dry_run_walks_every_step(tmp_path):
    """Without weights or headers: what a GPU, TensorRT or an option is needed for is told."""
    if cuda_driver.driver_problem() is None:
        pytest.skip("this machine has a GPU")
    done = run_program(
        tmp_path, "run", "--dry-run", "--work", str(tmp_path), "--only", "[lepsp]*", "--stage", "B"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "dry-run.json").read_text())
    names = [step.name for step in gpu_acceptance.stage_b_steps()]
    assert list(document["steps"]) == names
    for name, step in document["steps"].items():
        assert step["state"] == MISSING, name
        assert ("a GPU (libcuda.so.1 was not found" in step["reason"]) == (
            name not in ("library/build", "engine/cpu")
        )
    assert document["rows"] == [] and document["machine"]["gpu"] is None
    report = (tmp_path / "dry-run.md").read_text()
    assert "Nothing was measured" in report and all(name in report for name in names)


def test_dry_run_prepares_kernels(tmp_path):
    if cuda_driver.driver_problem() is None:
        pytest.skip("this machine has a GPU")
    done = run_program(
        tmp_path, "run", "--dry-run", "--work", str(tmp_path), "--only", "kernels/*tiny*"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "dry-run.json").read_text())
    ((name, step),) = document["steps"].items()
    assert name == "kernels/CodebookGemm-tiny-m1-2bit-float16"
    assert step["state"] == PREPARED
    assert "kernels compiled for sm_80, answer worked out for 8 outputs" in step["reason"]


def test_prepared_images_are_used(tmp_path):
    case = CASES["CodebookDecode-ragged-m0-2bit-float16"]
    done = run_program(
        tmp_path, "prepare", "--sm", "80", "90", "--images", str(tmp_path / "images"),
        "--only", f"kernels/{case.name}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (kernel,) = case.kernels
    for sm, asked in ((80, 80), (90, 90), (86, None)):
        path = tmp_path / "images" / f"{kernel.name}_sm{sm}.cubin"
        assert path.is_file() == (asked is not None)
    marked = b"\x7fELF prepared"
    (tmp_path / "images" / f"{kernel.name}_sm80.cubin").write_bytes(marked)
    assert stage_a.load_image(tmp_path / "images", kernel, 80) == marked


def step(name, measure, **changed):
    return steps.Step(name=name, stage="A", needs=(), measure=measure, **changed)


def setting(tmp_path):
    return steps.Setting(work=tmp_path)


def test_a_run_goes_on_where_it_stopped(tmp_path):
    calls = []

    def measured(name):
        return step(name, lambda _: calls.append(name) or [{"kernel": name, "ok": True}])

    def broken(_):
        raise Vq4ditError("the GPU fell off the bus")

    path = tmp_path / "results.json"
    first = [measured("one"), step("two", broken), measured("three")]
    results = Results(path, {"gpu": "x"})
    gpu_acceptance.run_steps(first, setting(tmp_path), results, dry=False, minutes=9)
    assert calls == ["one", "three"]
    assert results.document["steps"]["two"] == {
        "state": FAILED, "reason": "the GPU fell off the bus"
    }  # fmt: skip
    assert not gpu_acceptance.is_good(results.document)
    again = Results(path, {"gpu": "x"})
    second = [measured("one"), measured("two"), measured("three")]
    gpu_acceptance.run_steps(second, setting(tmp_path), again, dry=False, minutes=9)
    assert calls == ["one", "three", "two"]
    assert [row["step"] for row in again.document["rows"]] == ["one", "three", "two"]
    assert gpu_acceptance.is_good(again.document)


def test_no_error_of_a_step_ends_the_run(tmp_path):
    def broken(_):
        raise KeyError("median_ms")

    results = Results(tmp_path / "results.json", {"gpu": "x"})
    chosen = [step("one", broken), step("two", lambda _: [])]
    gpu_acceptance.run_steps(chosen, setting(tmp_path), results, dry=False, minutes=9)
    assert results.document["steps"]["one"]["reason"] == "KeyError: 'median_ms'"
    assert results.is_done("two") and not results.is_done("one")


def test_a_crash_ends_the_run_and_comes_last_in_the_next(tmp_path, capsys):
    calls = []

    def crash(_):
        calls.append("crash")
        raise cuda_driver.ContextLost("vq4dit_gemm: cuCtxSynchronize failed")

    chosen = [step("one", crash), step("two", lambda _: calls.append("two") or [])]
    for expected in (["crash"], ["crash", "two", "crash"]):
        results = Results(tmp_path / "results.json", {"gpu": "x"})
        gpu_acceptance.run_steps(chosen, setting(tmp_path), results, dry=False, minutes=9)
        assert calls == expected
        assert results.document["steps"]["one"]["reason"].startswith("vq4dit_gemm: cuCtx")
    assert "run again for the rest" in capsys.readouterr().err


def test_results_of_two_gpus_are_not_mixed(tmp_path):
    path = tmp_path / "results.json"
    Results(path, {"gpu": None}).put("one", MISSING, reason="a GPU")
    Results(path, {"gpu": "A100"}).put("one", RAN, rows=[])
    assert Results(path, {"gpu": "A100"}).is_done("one")
    with pytest.raises(ArtifactError, match="has results of A100, this machine has Orin; give"):
        Results(path, {"gpu": "Orin"})


def test_no_step_starts_after_the_time(tmp_path):
    results = Results(tmp_path / "results.json", {})
    chosen = [step("one", lambda _: [])]
    gpu_acceptance.run_steps(chosen, setting(tmp_path), results, dry=False, minutes=-1)
    assert results.document["steps"] == {}


def test_a_foreign_results_file_is_not_overwritten(tmp_path):
    path = tmp_path / "dry-run.json"
    path.write_text('{"rows": 3, "machine": {}}')
    with pytest.raises(ArtifactError, match="not a file of this program"):
        Results(path, {})
    done = run_program(tmp_path, "run", "--dry-run", "--work", str(tmp_path))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert path.read_text() == '{"rows": 3, "machine": {}}'


@pytest.fixture
def told(monkeypatch):
    """Stands for vq4dit's commands: what they were asked, and their JSON by command."""
    asked = []
    check = {"name": "self-test, exact", "ok": True, "latent_out_error": 1e-3,
             "x_start_error": 2e-3, "limit": 1e-2, "image_levels": None}  # fmt: skip
    profile = {
        "step": {"median_ms": 4.0, "p90_ms": 4.5, "min_ms": 3.9, "runs_ms": []},
        "image": None, "load_seconds": 1.5,
        "memory": {"phases": [{"device_bytes": None}, {"device_bytes": 3 << 20}]},
    }  # fmt: skip
    answers = {
        "verify": {"ok": True, "checks": [check]},
        "profile": {"engines": [profile], "machine": {}},
        "build": {},
    }

    def run(command, *arguments, library=None):
        asked.append([command, *map(str, arguments)])
        if library is not None:
            with_library.append(command)
        if command == "build":
            folder = Path(arguments[arguments.index("-o") + 1])
            folder.mkdir(parents=True)
            size = 2000 if "--weights" in arguments else 300
            (folder / "step.plan").write_bytes(bytes(size))
        return answers[command]

    with_library = []
    monkeypatch.setattr(stage_b, "run_vq4dit", run)
    return SimpleNamespace(commands=asked, with_library=with_library)


def test_stage_b_builds_compares_and_reports(tmp_path, told):
    """What each step asks of vq4dit, and what the report makes of the answers."""
    given = steps.Setting(
        work=tmp_path, artifact=Path("x.vq.safetensors"), checkpoint=Path("x.safetensors")
    )
    (tmp_path / "inlined.plan").write_bytes(bytes(1900))
    chosen = {step.name: step for step in stage_b.stage_b_steps()}
    results = Results(tmp_path / "results.json", {"gpu": "A"})
    names = ["engine/dense", "engine/aot", "engine/decode", "engine/library", "plan-sizes"]
    names += ["parity/aot", "parity/library", "speed/dense", "speed/aot", "speed/library"]
    for name in names:
        results.put(name, RAN, rows=chosen[name].measure(given))
    builds = [words for words in told.commands if words[0] == "build"]
    assert all(["--target", "tensorrt", "--batch", "1:8:8"] == w[2:6] for w in builds)
    assert [w[1] for w in builds] == ["x.safetensors", *["x.vq.safetensors"] * 3]
    assert "fp16" in builds[0] and "--plugin-library" not in builds[1]
    assert [w[7] for w in builds[1:]] == ["gather", "decode", "gather"]
    assert builds[3][9].endswith("libvq4dit_tensorrt.so")
    built = [row for row in results.document["rows"] if row["step"].startswith("engine/")]
    assert len(built) == 4 and all(row["seconds"] >= 0 for row in built)
    assert [w[3] for w in told.commands if w[0] == "profile"] == ["1", "8"] * 3
    assert told.with_library == ["verify", "profile", "profile"]
    text = render(results.document)
    assert "| inlined | 1,900 | True |" in text and "| aot | 300 | False |" in text
    assert "| aot | self-test, exact | 1.0e-03 | 2.0e-03 | 1.0e-02 | True |" in text
    assert "| aot | 8 | 4 | 4.5 | 1x | 3 | 1.5 |" in text


def test_commands_are_told_the_plugin_library(tmp_path):
    library = tmp_path / "libvq4dit_tensorrt.so"
    library.write_bytes(b"code")
    assert stage_b.run_vq4dit("doctor", library=library)["plugin_library"] == str(library)


def test_a_command_that_fails_is_told_in_one_line():
    with pytest.raises(Vq4ditError, match="no-such-engine"):
        stage_b.run_vq4dit("verify", "no-such-engine")


def test_report_of_kernels_and_plans():
    row = {"case": "qkv-m512", "m": 512, "n": 3456, "k": 1152, "dtype": "float16", "gpu": "A"}
    rows = [
        row | {"kernel": "cublas", "microseconds": 20.0, "ok": True},
        row | {"kernel": "vq4dit_gemm_a", "microseconds": 16.0, "ok": True, "relative_error": 2e-4},
        row | {"kernel": "vq4dit_gemm_b", "microseconds": 9.0, "ok": False, "relative_error": 0.5},
    ]
    document = {
        "machine": {"gpu": "A"},
        "steps": {"kernels/qkv-m512": {"state": RAN}},
        "rows": [{"step": "kernels/qkv-m512"} | r for r in rows]
        + [{"step": "plan-sizes", "kind": "aot", "plan_bytes": 2000, "is_folded": False}],
    }
    text = render(document)
    assert "| qkv-m512 | 512 | 3456 | 1152 | 20 | gemm_a | 16 | 1.25x | 5.0e-01 |" in text
    assert "M = 512: 1.25x" in text
    assert "- `vq4dit_gemm_b` in qkv-m512: relative error 0.5" in text
    assert "| aot | 2,000 | False |" in text
    assert "Nothing was measured" not in text
