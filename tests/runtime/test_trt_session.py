"""TensorRT sessions on a GPU double: order and completeness of the calls, and the numbers."""

import json
import logging
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
from support_gpu_double import BUILD, DRIVER, CudaDouble, TensorRtDouble, plan_bytes
from tiny_engine import CONFIG, toy_step, write_step, write_tiny_engine

from vq4dit.cache_folder import CACHE_VARIABLE
from vq4dit.cli import main
from vq4dit.engine_files import file_entry, hash_file
from vq4dit.engines.manifest import MANIFEST_NAME, load_manifest, manifest_to_json
from vq4dit.errors import ArtifactError, BackendUnavailable, OptionError, Vq4ditError
from vq4dit.packed_plan import pack_plan
from vq4dit.runtime import cuda_calls, trt_plan
from vq4dit.runtime.ort_session import OrtDecoderSession, OrtStepSession
from vq4dit.runtime.pipeline import Pipeline
from vq4dit.runtime.session import StepInputs
from vq4dit.runtime.trt_session import TrtDecoderSession, TrtStepSession

STEP_INPUTS = [f.name for f in fields(StepInputs)]


def step_inputs(batch, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((3, batch, 4, 8, 8)).astype(np.float32)
    return StepInputs(
        latent=images[0], noise=images[1], history=images[2],
        timestep=rng.uniform(0, 999, batch).astype(np.float32),
        label=rng.integers(0, 10, batch),
        cfg_scale=rng.uniform(1, 4, batch).astype(np.float32),
        coefficients=rng.uniform(-1, 1, (batch, 8)).astype(np.float32),
    )  # fmt: skip


def toy(inputs):
    """The toy step; a plan without guidance reads no cfg_scale."""
    batch = len(inputs["latent"])
    inputs.setdefault("cfg_scale", np.ones(batch, np.float32))
    return dict(zip(("latent_out", "x_start"), toy_step(StepInputs(**inputs)), strict=True))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def machine(monkeypatch):
    """CUDA and TensorRT in the places where sessions look for them."""
    cuda = CudaDouble()
    trt = TensorRtDouble(cuda, toy)
    monkeypatch.setattr(cuda_calls, "import_cuda_runtime", lambda: cuda)
    monkeypatch.setattr(trt_plan, "import_runtime", lambda target, build: trt)
    monkeypatch.setattr(trt_plan, "find_driver", lambda: (DRIVER, ""))
    return trt


@pytest.fixture
def open_step(tmp_path, machine):
    """A function that opens a step session on a plan of the double."""
    made = []

    def open_(*, build=BUILD, target="tensorrt", data=None, **options):
        path = tmp_path / "step.plan"
        path.write_bytes(plan_bytes(CONFIG, **options) if data is None else data)
        made.append(TrtStepSession(path, target=target, build=build, entry=file_entry(path)))
        return made[-1]

    yield open_
    for session in made:
        session.close()
    assert machine.cuda.is_clean()


@pytest.mark.ort
def test_steps_equal_those_of_the_cpu_session(tmp_path, machine, open_step):
    """The double's plan is the CPU session itself: any difference is the host's doing."""
    write_step(tmp_path / "step.onnx")
    cpu = OrtStepSession(tmp_path / "step.onnx", library=None, threads=1)
    machine.compute = lambda inputs: dict(
        zip(("latent_out", "x_start"), cpu.run(StepInputs(**inputs)), strict=True)
    )
    session = open_step()
    for i, batch in enumerate((1, 1, 1, 3, 3, 2, 4, 4, 1, 1)):
        inputs = step_inputs(batch, seed=i)
        for found, wanted in zip(session.run(inputs), cpu.run(inputs), strict=True):
            assert found.dtype == np.float32 and np.array_equal(found, wanted)


def test_results_are_the_callers_own(open_step):
    session = open_step()
    first = session.run(step_inputs(2, seed=0))
    kept = [array.copy() for array in first]
    session.run(step_inputs(2, seed=1))
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))


def test_everything_is_bound_once(machine, open_step):
    session = open_step()
    for batch in (1, 2, 2, 4):
        session.run(step_inputs(batch))
    calls = machine.cuda.calls
    bound = [call[1] for call in calls if call[0] == "set_tensor_address"]
    assert sorted(bound) == sorted([*STEP_INPUTS, "latent_out", "x_start"])
    assert machine.cuda.count("cudaMalloc") == machine.cuda.count("cudaMallocHost") == len(bound)
    assert machine.cuda.count("cudaStreamCreateWithFlags") == 1
    first_run = next(i for i, call in enumerate(calls) if call[0] == "execute_async_v3")
    assert max(i for i, call in enumerate(calls) if call[0] == "set_tensor_address") < first_run


def test_shapes_are_set_before_the_first_run_of_a_batch_only(machine, open_step):
    session = open_step()
    for batch in (2, 2, 2, 3, 3):
        session.run(step_inputs(batch))
    shapes = [call[1:] for call in machine.cuda.calls if call[0] == "set_input_shape"]
    assert len(shapes) == 2 * len(STEP_INPUTS)
    assert ("coefficients", (2, 8)) in shapes and ("latent", (3, 4, 8, 8)) in shapes


def test_one_graph_per_batch_shape(machine, open_step):
    session = open_step()
    names = ("cudaStreamBeginCapture", "cudaGraphInstantiate", "cudaGraphLaunch")
    for _ in range(4):
        session.run(step_inputs(2))
    assert [machine.cuda.count(name) for name in names] == [1, 1, 3]
    assert machine.cuda.count("execute_async_v3") == 2  # the first run, and the recording
    for _ in range(3):
        session.run(step_inputs(3))
    assert [machine.cuda.count(name) for name in names] == [2, 2, 5]
    assert machine.cuda.count("cudaGraphExecDestroy") == 1  # shapes of the first graph are gone


def test_copies_go_with_every_run_and_are_no_larger_than_the_batch(machine, open_step):
    session = open_step()
    session.run(step_inputs(2))
    copies = [call for call in machine.cuda.calls if call[0] == "cudaMemcpyAsync"]
    sizes = sorted(call[3] for call in copies[: len(STEP_INPUTS) + 2])
    image, number = 2 * 4 * 8 * 8 * 4, 2 * 4
    assert sizes == sorted([number, number, 2 * number, 8 * number, *[image] * 5])


def test_a_plan_that_cannot_be_recorded_runs_all_the_same(machine, open_step, caplog):
    session = open_step()
    context = session._runner._context
    direct = context.execute_async_v3

    def refuse_recording(stream_handle):
        if stream_handle in machine.cuda.recordings:
            machine.say("operation not permitted when stream is capturing")
            return False
        return direct(stream_handle)

    context.execute_async_v3 = refuse_recording
    with caplog.at_level(logging.WARNING, "vq4dit.runtime.trt_runner"):
        for seed in range(3):
            found = session.run(step_inputs(3, seed=seed))
            assert np.array_equal(found[0], toy_step(step_inputs(3, seed=seed))[0])
    assert len([r for r in caplog.records if "without a CUDA graph" in r.message]) == 1
    assert machine.cuda.count("cudaStreamBeginCapture") == 1  # tried once


def test_rtx_is_asked_whether_it_can_be_recorded(machine, open_step):
    session = open_step(target="tensorrt-rtx")
    answers = iter([False, False, True])
    session._runner._context.is_stream_capturable = lambda stream: next(answers)
    for seed in range(4):
        inputs = step_inputs(1, seed=seed)
        assert np.array_equal(session.run(inputs)[0], toy_step(inputs)[0])
    assert machine.cuda.count("cudaStreamBeginCapture") == 1
    assert machine.cuda.count("execute_async_v3") == 3 + 1  # the last run is a graph's launch
    assert machine.cuda.count("cudaGraphLaunch") == 1


def test_rtx_compiles_its_kernels_once(tmp_path, machine, open_step, cache):
    for _ in range(3):
        open_step(target="tensorrt-rtx").close()
    assert machine.compiled == 1
    (kept,) = cache.iterdir()
    assert kept.name == f"rtx-{hash_file(tmp_path / 'step.plan')[:32]}.kernels"
    assert kept.read_bytes() == b"kernels for Orin 1"
    kept.write_bytes(b"kernels for Thor")
    open_step(target="tensorrt-rtx").close()
    assert machine.compiled == 2 and kept.read_bytes() == b"kernels for Orin 2"


def test_kernels_that_cannot_be_kept_are_told(tmp_path, machine, open_step, monkeypatch, caplog):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING):
        open_step(target="tensorrt-rtx").close()
    assert "compiled kernels are not kept" in caplog.text


def test_a_plan_without_guidance_lacks_its_weight(open_step):
    session = open_step(without=("cfg_scale",))
    inputs = step_inputs(2)
    wanted = toy_step(replace(inputs, cfg_scale=np.ones(2, np.float32)))
    assert np.array_equal(session.run(inputs)[0], wanted[0])


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_batch_outside_the_profile(open_step, batch):
    session = open_step(batch=(2, 2, 4))
    with pytest.raises(OptionError, match=rf"batch is {batch}, the plan takes 2\.\.4; split"):
        session.run(step_inputs(batch))
    assert len(session.run(step_inputs(3))[0]) == 3


def test_closed_session_does_not_run(machine, open_step):
    session = open_step()
    session.run(step_inputs(2))
    session.close()
    session.close()
    assert machine.cuda.is_clean()
    with pytest.raises(OptionError, match="closed"):
        session.run(step_inputs(2))


def test_decoder_splits_and_fills_batches(tmp_path, machine):
    machine.compute = lambda inputs: {"image": np.tanh(inputs["latent"][:, :3].repeat(2, 3))}
    path = tmp_path / "decoder.plan"
    path.write_bytes(plan_bytes(CONFIG, batch=(2, 2, 4), image_size=[3, 8, 16]))
    decoder = TrtDecoderSession(path, target="tensorrt", build=BUILD, entry=file_entry(path))
    latent = step_inputs(9).latent
    assert np.array_equal(decoder.decode(latent), np.tanh(latent[:, :3].repeat(2, 3)))
    assert decoder.decode(latent[:1]).shape == (1, 3, 8, 16)
    decoder.close()
    assert machine.cuda.is_clean()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            "cudaGetDeviceCount",
            "cudaErrorInsufficientDriver",
            "older than the CUDA .*CUDA 12 pip inst",
        ),
        ("cudaGetDeviceCount", "cudaErrorNoDevice", "shows no GPU; run `vq4dit doctor`"),
        ("cudaMalloc", "cudaErrorMemoryAllocation", "memory is exhausted .*--low-memory"),
        ("cudaMallocHost", "cudaErrorMemoryAllocation", "memory is exhausted"),
        ("cudaStreamCreateWithFlags", "cudaErrorUnknown", "cudaStreamCreateWithFlags gave cudaErr"),
    ],
)
def test_cuda_that_fails_while_opening(machine, open_step, call, error, message):
    machine.cuda.fail[call] = error
    with pytest.raises(Vq4ditError, match=message):
        open_step()
    assert machine.cuda.is_clean()


def test_cuda_that_fails_while_running(machine, open_step):
    session = open_step()
    machine.cuda.fail["cudaStreamSynchronize"] = "cudaErrorIllegalAddress"
    with pytest.raises(Vq4ditError, match="cudaStreamSynchronize gave cudaErrorIllegalAddress"):
        session.run(step_inputs(1))
    del machine.cuda.fail["cudaStreamSynchronize"]
    machine.cuda.cudaStreamSynchronize(next(iter(machine.cuda.streams)))


def test_freeing_hides_no_earlier_error(machine, open_step):
    session = open_step()
    broken = dict.fromkeys(
        ("cudaStreamSynchronize", "cudaFree", "cudaFreeHost", "cudaStreamDestroy"),
        "cudaErrorIllegalAddress",
    )
    machine.cuda.fail.update(broken)
    with pytest.raises(Vq4ditError, match="cudaStreamSynchronize gave"):
        try:
            session.run(step_inputs(1))
        finally:
            session.close()
    assert machine.cuda.count("cudaFree") == machine.cuda.count("cudaMalloc")
    machine.cuda.fail.clear()
    machine.cuda.forget()


def test_no_memory_for_the_context_or_the_run(machine, open_step):
    machine.context_fits = False
    with pytest.raises(BackendUnavailable, match="memory is exhausted .Requested amount"):
        open_step()
    machine.context_fits, machine.fails_to_run = True, True
    with pytest.raises(BackendUnavailable, match="memory is exhausted"):
        open_step().run(step_inputs(1))
    stream = next(iter(machine.cuda.streams))
    machine.cuda.cudaStreamSynchronize(stream)


@pytest.mark.parametrize(
    "words, kind, message",
    [
        ("Magic tag does not match", ArtifactError, "cannot load the plan .Magic tag"),
        (
            "getPluginCreator could not find plugin: CodebookGemm version: 1",
            BackendUnavailable,
            "lacks a plugin that the plan needs .*VQ4DIT_TENSORRT_LIBRARY",
        ),
        (
            "The engine plan file is not compatible with this version of TensorRT, expecting "
            "library version 11.4.0 got 11.3.0",
            BackendUnavailable,
            "built elsewhere.*vq4dit build X.vq.safetensors --target tensorrt` here",
        ),
        (
            "The engine plan file is generated on an incompatible device, expecting compute 8.9",
            BackendUnavailable,
            "built elsewhere",
        ),
        ("out of memory while creating weights", BackendUnavailable, "too little GPU memory"),
    ],
)
def test_plans_that_tensorrt_refuses(open_step, words, kind, message):
    with pytest.raises(kind, match=message):
        open_step(data=f'{{"error": "{words}"}}'.encode())


def test_truncated_plan(open_step):
    with pytest.raises(ArtifactError, match="step.plan: tensorrt cannot load the plan"):
        open_step(data=plan_bytes(CONFIG)[:-9])


def test_plan_of_something_else(open_step):
    with pytest.raises(ArtifactError, match=r"the plan has the tensors \['image', 'latent'\]"):
        open_step(image_size=[3, 8, 8])
    odd = plan_bytes(CONFIG).replace(b'"INT64"', b'"FP8"')
    with pytest.raises(ArtifactError, match="label is of type FP8, needed one of FLOAT"):
        open_step(data=odd)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"version": "10.9.0.34"}, "built with tensorrt 10.9.0.34, this machine has 11.4.0.106"),
        ({"version": "10.7.0.post1"}, "built with tensorrt 10.7.0.post1, this machine has 11.4"),
        ({"version": "11.5.0.1", "version_compatible": True}, "built with tensorrt 11.5.0.1"),
        (
            {"compute_capabilities": ("8.0", "9.0"), "gpu": "A100"},
            r"built for sm_80, sm_90 \(A100\), this machine has sm_87 \(Orin\); run `vq4dit build",
        ),
    ],
)
def test_plans_from_elsewhere(open_step, changes, message):
    with pytest.raises(BackendUnavailable, match=message):
        open_step(build=replace(BUILD, **changes))


def test_later_versions_run_version_compatible_plans(machine, open_step):
    open_step(build=replace(BUILD, version="10.16.0.1", version_compatible=True))
    assert machine.runtime.engine_host_code_allowed is True
    open_step()
    assert machine.runtime.engine_host_code_allowed is False


def test_no_driver(monkeypatch, open_step):
    monkeypatch.setattr(trt_plan, "find_driver", lambda: (None, "the driver is not installed"))
    with pytest.raises(BackendUnavailable, match="needs an NVIDIA GPU, and the driver is not inst"):
        open_step()


def test_plugin_library(tmp_path, monkeypatch, machine, open_step):
    build = replace(BUILD, plugin="library")
    monkeypatch.setenv(trt_plan.LIBRARY_VARIABLE, str(tmp_path / "gone.so"))
    with pytest.raises(BackendUnavailable, match="libvq4dit_tensorrt.so is not installed; build"):
        open_step(build=build)
    library = tmp_path / "libvq4dit_tensorrt.so"
    library.write_bytes(b"")
    monkeypatch.setenv(trt_plan.LIBRARY_VARIABLE, str(library))
    assert open_step(build=build).run(step_inputs(1))
    machine.library_loads = False
    with pytest.raises(BackendUnavailable, match="libvq4dit_tensorrt.so does not load"):
        open_step(build=build)


def test_missing_runtime_is_named(monkeypatch):
    monkeypatch.setattr(trt_plan, "find_spec", lambda name: None)
    for target, module in (("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")):
        with pytest.raises(BackendUnavailable, match=f"module {module} is not installed; pip inst"):
            trt_plan.import_runtime(target, BUILD)


@pytest.fixture
def engines(tmp_path, machine):
    """An engine for the CPU, and the same models as plans of the double."""
    plain = write_tiny_engine(tmp_path / "cpu")
    step = OrtStepSession(tmp_path / "cpu" / "step.onnx", library=None, threads=1)
    decoder = OrtDecoderSession(tmp_path / "cpu" / "decoder.onnx", threads=1)

    def compute(inputs):
        if len(inputs) == 1:
            return {"image": decoder.decode(inputs["latent"])}
        return dict(zip(("latent_out", "x_start"), step.run(StepInputs(**inputs)), strict=True))

    machine.compute = compute
    folder = tmp_path / "gpu"
    folder.mkdir()
    (folder / "step.plan").write_bytes(plan_bytes(CONFIG, batch=(1, 2, 3)))
    image = list(plain.image_shape)
    (folder / "decoder.plan").write_bytes(plan_bytes(CONFIG, batch=(1, 2, 3), image_size=image))
    shutil.copy(tmp_path / "cpu" / "selftest.safetensors", folder)
    files = {"step": "step.plan", "decoder": "decoder.plan", "selftest": "selftest.safetensors"}
    manifest = replace(
        plain, target="tensorrt", form="plugin", compute_dtype="float16", batch_max=3,
        tensorrt=BUILD, files={role: file_entry(folder / name) for role, name in files.items()},
    )  # fmt: skip
    (folder / MANIFEST_NAME).write_bytes(manifest_to_json(manifest))
    return tmp_path


@pytest.mark.ort
@pytest.mark.parametrize("low_memory", [False, True])
def test_pipelines_draw_the_same_pictures_on_both(engines, machine, low_memory):
    options = {"steps": 4, "sampler": "ddpm", "seed": 5}
    labels = [1, 2, 3, 4, 5, 6, 7]
    with Pipeline(engines / "cpu", threads=1) as pipeline:
        wanted = pipeline(labels, batch_size=3, **options)
    with Pipeline(engines / "gpu", verify=True, low_memory=low_memory) as pipeline:
        assert np.array_equal(pipeline(labels, **options), wanted)
        with pytest.raises(OptionError, match="batch_size is 4"):
            pipeline(labels, batch_size=4, **options)
    assert machine.cuda.is_clean()


@pytest.mark.ort
@pytest.mark.parametrize("damage", [None, "tampered", "truncated", "longer than told"])
def test_packed_plans(engines, machine, damage):
    folder = engines / "gpu"
    for name in ("step.plan", "decoder.plan"):
        tensors = json.loads((folder / name).read_bytes())
        text = [f"float value_{number * number} = {number};" for number in range(9000)]
        (folder / name).write_text(json.dumps({**tensors, "kernel": text}))
        assert pack_plan(folder / name).name == f"{name}.zip"
    manifest = load_manifest(folder)
    files = {role: file_entry(folder / f"{role}.plan.zip") for role in ("step", "decoder")}
    path, message = folder / "step.plan.zip", ""
    if damage == "longer than told":
        files["step"] = replace(files["step"], unpacked_bytes=1000)
        message = "step.plan.zip: holds a plan of [0-9]+ bytes, the manifest says 1000; copy the"
    elif damage == "tampered":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        message = "step.plan.zip: has SHA-256 .*build it again"
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
        message = "step.plan.zip: is .* bytes long, the manifest says"
    changed = replace(manifest, files={**manifest.files, **files})
    (folder / MANIFEST_NAME).write_bytes(manifest_to_json(changed))
    if damage is not None:
        with pytest.raises(ArtifactError, match=message):
            Pipeline(folder)
        return
    with Pipeline(folder, verify=True) as pipeline, Pipeline(engines / "cpu", threads=1) as plain:
        assert np.array_equal(pipeline([1, 2], steps=3), plain([1, 2], steps=3))


@pytest.mark.ort
def test_verify_runs_one_selftest(engines, capsys):
    assert main(["verify", str(engines / "gpu")]) == 0
    out = capsys.readouterr().out
    assert out.count("self-test") == 1 and "(limit 1e-02)" in out


@pytest.mark.ort
def test_sample_says_in_one_line_what_is_missing(engines, monkeypatch, capsys):
    monkeypatch.setattr(trt_plan, "find_driver", lambda: (None, "there is no driver"))
    arguments = ["sample", str(engines / "gpu"), "--labels", "1", "-o", str(engines / "x.png")]
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("vq4dit sample: an engine for target tensorrt needs an NVIDIA GPU")
