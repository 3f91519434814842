"""Engines with plans: real ones by TensorRT-RTX on the CPU, TensorRT's with a stand-in builder."""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from support_export import TINY, decoded, random_source
from support_vae import make_vae

from vq4dit.cache_folder import CACHE_VARIABLE
from vq4dit.engines import plan_engine
from vq4dit.engines.build import build_engine
from vq4dit.engines.exports import Vae
from vq4dit.engines.manifest import load_manifest, verify_files
from vq4dit.engines.plan_engine import PlanOptions, decoder_profile, step_profile
from vq4dit.errors import ArtifactError, BackendUnavailable, OptionError
from vq4dit.model_config import ModelConfig
from vq4dit.packed_plan import read_packed_plan
from vq4dit.runtime.gpu import Driver, Gpu
from vq4dit.runtime.pipeline import Pipeline

pytestmark = pytest.mark.ort

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None or find_spec("polygraphy") is None,
    reason="needs tensorrt_rtx and polygraphy",
)

#: Sizes of the bundled demo model.
DEMO = ModelConfig(
    input_size=8, patch_size=2, in_channels=4, hidden_size=256, depth=8, num_heads=4, num_classes=10
)

#: What a stored plan may hold besides weights: code and descriptions.
CODE_BYTES = 1_500_000

ORIN = Gpu(name="Orin", compute_capability="8.7", memory_bytes=64 << 30, is_integrated=True)
DRIVER = Driver(version="580.95", cuda_version="13.2", gpus=(ORIN,))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@needs_rtx
def test_the_demo_models_assignments_stay_packed(tmp_path):
    source = random_source(DEMO, bits=2)
    manifest = build_engine(source, tmp_path / "engine", target="tensorrt-rtx")
    stored, entry = tmp_path / "engine" / "step.plan.zip", manifest.files["step"]
    plan = read_packed_plan(stored, entry.unpacked_bytes)
    for name, layer in source.layers.items():
        assert plan.count(layer.assignments.tobytes()) == 1, name
    packed = sum(x.assignments.nbytes + x.codebook.nbytes for x in source.layers.values())
    dense = sum(2 * tensor.size for tensor in source.tensors.values())  # float16
    assert entry.bytes <= packed + dense + CODE_BYTES
    assert len(plan) < sum(2 * o * i for o, i in DEMO.block_linear_shapes().values())


@needs_rtx
@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"weights": "bf16", "cfg": False}, "bfloat16"),
        ({"weights": "fp32", "plan_options": PlanOptions(batch=(1, 2, 4))}, "float32"),
    ],
    ids=["bf16, no guidance", "fp32, dynamic batch"],
)
def test_real_engines_of_other_types(tmp_path, options, dtype):
    manifest = build_engine(random_source(), tmp_path / "e", target="tensorrt-rtx", **options)
    verify_files(tmp_path / "e", manifest)
    assert manifest == load_manifest(tmp_path / "e")
    assert (manifest.form, manifest.compute_dtype) == ("inlined", dtype)
    batch = options.get("plan_options", PlanOptions()).batch
    assert (manifest.batch_min, manifest.tensorrt.batch_opt, manifest.batch_max) == batch
    assert manifest.tensorrt.compute_capabilities == plan_engine.DEFAULT_RTX_CAPABILITIES
    assert (manifest.tensorrt.plugin, manifest.tensorrt.gpu) == ("none", "")
    assert manifest.tool_versions["tensorrt-rtx"] == manifest.tensorrt.version


@needs_rtx
def test_engine_with_decoder_and_dense_weights(tmp_path, cache):
    make_vae(tmp_path / "vae", (8, 16))
    source = decoded(random_source())
    stages = []
    manifest = build_engine(
        source, tmp_path / "e", target="tensorrt-rtx", weights="fp16", vae=tmp_path / "vae",
        plan_options=PlanOptions(compute_capabilities=("8.9",)), progress=stages.append,
    )  # fmt: skip
    files = {path.name for path in (tmp_path / "e").iterdir()}
    assert files == {"manifest.json", "step.plan.zip", "decoder.plan.zip", "selftest.safetensors"}
    assert manifest.image_shape == (3, 16, 16)
    assert set(manifest.bits_per_weight.values()) == {16.0}
    assert manifest.tensorrt.compute_capabilities == ("8.9",)
    assert stages == [
        "writing the step model", "building step.plan", "writing the decoder",
        "building decoder.plan", "running the self-test",
    ]  # fmt: skip
    assert len(list(cache.glob("*.plan"))) == 2
    with pytest.raises(BackendUnavailable, match="sm_89|needs an NVIDIA GPU"):
        Pipeline(tmp_path / "e")


@needs_rtx
def test_tampered_plan_is_refused_before_it_is_loaded(tmp_path):
    build_engine(random_source(), tmp_path / "e", target="tensorrt-rtx")
    path = tmp_path / "e" / "step.plan.zip"
    data = path.read_bytes()
    path.write_bytes(data[:-4] + b"text")
    with pytest.raises(ArtifactError, match="step.plan.zip: has SHA-256 .*build it again"):
        Pipeline(tmp_path / "e")
    path.write_bytes(data[:-4])
    with pytest.raises(ArtifactError, match="step.plan.zip: is .* bytes long, the manifest says"):
        Pipeline(tmp_path / "e")


@pytest.fixture
def tensorrt(monkeypatch):
    """Target tensorrt on a Jetson, whose builder copies what it is told; gives the jobs."""
    jobs = []

    def run_job(job, progress=None):
        model = onnx.load(job.onnx_path, load_external_data=False)
        jobs.append((job, model))
        Path(job.plan_path).write_bytes(f"plan {len(jobs)}".encode())
        return "10.16.2.10"

    monkeypatch.setattr(plan_engine, "run_job", run_job)
    monkeypatch.setattr(plan_engine, "find_driver", lambda: (DRIVER, ""))
    monkeypatch.setattr("vq4dit.engines.targets.find_driver", lambda: (DRIVER, ""))
    monkeypatch.setattr(plan_engine, "version", lambda name: "10.16.2.10")
    monkeypatch.setattr("vq4dit.engines.targets.is_installed", lambda name: True)
    monkeypatch.setattr("vq4dit.plugins.cuda.nvrtc.load_nvrtc", lambda: None)
    return jobs


WIDE = replace(TINY, hidden_size=128)


def test_tensorrt_builds_on_its_gpu_with_plugins(tmp_path, tensorrt):
    make_vae(tmp_path / "vae", (8, 16))
    options = PlanOptions(batch=(1, 4, 8), version_compatible=True)
    manifest = build_engine(
        random_source(WIDE), tmp_path / "e", target="tensorrt", vae=tmp_path / "vae",
        plan_options=options,
    )  # fmt: skip
    assert load_manifest(tmp_path / "e") == manifest
    assert vars(manifest.tensorrt) == {
        "version": "10.16.2.10", "compute_capabilities": ("8.7",), "gpu": "Orin",
        "cuda_version": "13.2", "driver_version": "580.95", "plugin": "aot",
        "version_compatible": True, "batch_opt": 4, "decoded_linears": (),
    }  # fmt: skip
    (step, model), (decoder, _) = tensorrt
    assert {node.op_type for node in model.graph.node if node.domain == "vq4dit"} == {
        "CodebookGemm", "CodebookGemmResidual",
    }  # fmt: skip
    assert not model.functions
    assert (step.plugin, decoder.plugin) == ("aot", "none")
    assert step.workspace_bytes == decoder.workspace_bytes == 1 << 30
    assert step.timing_cache == decoder.timing_cache and step.version_compatible
    assert step.profile["latent"] == ((1, 4, 8, 8), (4, 4, 8, 8), (8, 4, 8, 8))


def test_a_plan_is_built_once_for_the_same_bytes_and_gpu(tmp_path, tensorrt, monkeypatch):
    source = random_source(WIDE)
    for name in ("a", "b"):
        build_engine(source, tmp_path / name, target="tensorrt")
    assert len(tensorrt) == 1
    assert (tmp_path / "b" / "step.plan").read_bytes() == b"plan 1"
    build_engine(
        source, tmp_path / "c", target="tensorrt", plan_options=PlanOptions(use_cache=False)
    )
    other = replace(DRIVER, gpus=(replace(ORIN, name="Thor", compute_capability="11.0"),))
    monkeypatch.setattr(plan_engine, "find_driver", lambda: (other, ""))
    manifest = build_engine(source, tmp_path / "d", target="tensorrt")
    assert len(tensorrt) == 3 and manifest.tensorrt.compute_capabilities == ("11.0",)


def test_plans_of_a_builder_without_metadata_are_not_kept(tmp_path, tensorrt, monkeypatch):
    """As where TensorRT's bindings are copied by hand: any version could be there next time."""

    def missing(name):
        if "tensorrt" in name:
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(plan_engine, "version", missing)
    for name in ("a", "b"):
        manifest = build_engine(random_source(WIDE), tmp_path / name, target="tensorrt")
        assert manifest == load_manifest(tmp_path / name)
    assert len(tensorrt) == 2 and manifest.tensorrt.version == "10.16.2.10"


def test_dense_weights_need_no_plugin(tmp_path, tensorrt):
    manifest = build_engine(decoded(random_source()), tmp_path / "e", target="tensorrt")
    assert manifest.tensorrt.plugin == tensorrt[0][0].plugin == "none"


def test_a_plugin_library_is_handed_on(tmp_path, tensorrt):
    library = tmp_path / "libvq4dit_tensorrt.so"
    library.write_bytes(b"code")
    options = PlanOptions(plugin_library=library)
    manifest = build_engine(
        random_source(WIDE), tmp_path / "e", target="tensorrt", plan_options=options
    )
    assert manifest.tensorrt.plugin == "library"
    assert tensorrt[0][0].plugin_library == str(library)


def test_too_little_memory_is_told_before_building(tmp_path, tensorrt, monkeypatch):
    monkeypatch.setattr("vq4dit.engines.plan_memory.available_host_bytes", lambda: 1 << 28)
    with pytest.raises(BackendUnavailable, match="building needs about"):
        build_engine(random_source(WIDE), tmp_path / "e", target="tensorrt")
    assert tensorrt == [] and not (tmp_path / "e").exists()


def test_no_gpu_where_one_is_needed(tmp_path, tensorrt, monkeypatch):
    monkeypatch.setattr(plan_engine, "find_driver", lambda: (None, "there is no driver"))
    with pytest.raises(BackendUnavailable, match="builds on the GPU .* there is no driver"):
        build_engine(random_source(WIDE), tmp_path / "e", target="tensorrt")


def test_a_gpu_without_kernels(tmp_path, tensorrt, monkeypatch):
    old = replace(DRIVER, gpus=(replace(ORIN, name="T4", compute_capability="7.5"),))
    monkeypatch.setattr(plan_engine, "find_driver", lambda: (old, ""))
    with pytest.raises(
        BackendUnavailable, match="T4 has compute capability 7.5, the kernels need 8.0"
    ):
        build_engine(random_source(WIDE), tmp_path / "e", target="tensorrt")
    manifest = build_engine(decoded(random_source()), tmp_path / "e", target="tensorrt")
    assert manifest.tensorrt.compute_capabilities == ("7.5",)


def test_a_gpu_newer_than_the_kernels_takes_their_ptx(tmp_path, tensorrt, monkeypatch):
    spark = replace(DRIVER, gpus=(replace(ORIN, name="GB10", compute_capability="12.1"),))
    monkeypatch.setattr(plan_engine, "find_driver", lambda: (spark, ""))
    manifest = build_engine(random_source(WIDE), tmp_path / "e", target="tensorrt")
    assert manifest.tensorrt.compute_capabilities == ("12.1",)
    assert tensorrt[0][0].compute_capabilities == ("12.1",)


def test_no_compiler_for_the_kernels(tmp_path, tensorrt, monkeypatch):
    def missing():
        raise BackendUnavailable("no CUDA compiler")

    monkeypatch.setattr("vq4dit.plugins.cuda.nvrtc.load_nvrtc", missing)
    with pytest.raises(BackendUnavailable, match="no CUDA compiler"):
        build_engine(random_source(WIDE), tmp_path / "e", target="tensorrt")
    assert tensorrt == []


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("tensorrt", {"batch": (2, 1, 4)}, "batch is 2:1:4, needed 1 <= min <= opt <= max"),
        ("tensorrt-rtx", {"batch": (0, 1, 1)}, "batch is 0:1:1"),
        ("tensorrt", {"compute_capabilities": ("8.6",)}, "for target tensorrt-rtx only"),
        ("tensorrt-rtx", {"version_compatible": True}, "are for target tensorrt only"),
        ("tensorrt", {"plugin_library": Path("gone.so")}, "gone.so: the plugin library is missing"),
    ],
)
def test_options_out_of_range(target, options, message):
    with pytest.raises(OptionError, match=message):
        PlanOptions(**options).check(target)


def test_options_of_plans_are_not_for_other_targets(tmp_path):
    with pytest.raises(OptionError, match="options of plans are for targets tensorrt and"):
        build_engine(random_source(), tmp_path / "e", target="onnx", plan_options=PlanOptions())


def test_profiles_name_every_input():
    step = step_profile(TINY, (1, 2, 3))
    assert step["timestep"] == ((1,), (2,), (3,)) and step["coefficients"][2] == (3, 8)
    assert sorted(step) == [
        "cfg_scale", "coefficients", "history", "label", "latent", "noise", "timestep",
    ]  # fmt: skip
    tiles = decoder_profile(TINY, Vae(path=Path("vae"), tile_size=4), (1, 1, 2))
    assert tiles == {"latent": ((1, 4, 4, 4), (1, 4, 4, 4), (2, 4, 4, 4))}
