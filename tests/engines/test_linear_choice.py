"""`--linears`: what the builder chooses, that it is what was predicted, and what it tells."""

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from support_export import TINY, decoded, random_source

from vq4dit.cache_folder import CACHE_VARIABLE
from vq4dit.calibrate.artifact import ArtifactInfo, save_artifact
from vq4dit.cli import main
from vq4dit.engines import plan_engine
from vq4dit.engines.build import build_engine
from vq4dit.engines.linear_choice import choose_way
from vq4dit.engines.manifest import load_manifest
from vq4dit.engines.plan_options import PlanOptions
from vq4dit.errors import BackendUnavailable, OptionError
from vq4dit.export.linear_ways import DECODE, GATHER, LinearUse
from vq4dit.model_config import PRESETS
from vq4dit.plugins import CONFIGURATIONS, Layout
from vq4dit.plugins.cuda.gpu_table import GPUS
from vq4dit.prediction import predict
from vq4dit.runtime.gpu import Driver, Gpu

pytestmark = pytest.mark.ort

GIB = 1 << 30
#: A GPU whose GEMM library multiplies four times as fast as our kernels.
THOR = Gpu(name="NVIDIA Thor", compute_capability="11.0", memory_bytes=128 * GIB,
           is_integrated=True)  # fmt: skip
#: Wide enough that both ways are predicted to be the faster one for some linears.
CONFIG = replace(TINY, hidden_size=256, num_heads=4)
BATCH = 64
SHAPES = CONFIG.block_linear_shapes()
XL = PRESETS["DiT-XL/2"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def source():
    return random_source(CONFIG)


@pytest.fixture
def builder(monkeypatch):
    """Target tensorrt on a GPU of choice, whose builder keeps the models: `models`, `use(gpu)`."""

    class Builder:
        models = []

        def use(self, gpu):
            driver = Driver(version="580.95", cuda_version="13.2", gpus=(gpu,))
            for module in ("plan_engine", "targets"):
                path = f"vq4dit.engines.{module}.find_driver"
                monkeypatch.setattr(path, lambda: (driver, ""))

    def run_job(job, progress=None):
        found.models.append(onnx.load(job.onnx_path, load_external_data=False))
        Path(job.plan_path).write_bytes(b"plan")
        return "11.4.0.106"

    found = Builder()
    found.models = []
    found.use(THOR)
    monkeypatch.setattr(plan_engine, "run_job", run_job)
    monkeypatch.setattr("vq4dit.engines.targets.is_installed", lambda name: True)
    monkeypatch.setattr("vq4dit.plugins.cuda.nvrtc.load_nvrtc", lambda: None)
    return found


def build(source, folder, linears="auto", batch=BATCH):
    """The manifest of an engine for target tensorrt."""
    options = PlanOptions(batch=(1, batch, batch), linears=linears, use_cache=False)
    return build_engine(source, folder, target="tensorrt", plan_options=options)


def decode_nodes(model):
    """Layers whose weight a node of the model decodes."""
    nodes = [node for node in model.graph.node if node.op_type == "CodebookDecode"]
    return [node.name.removesuffix(".weight") for node in nodes]


def test_the_builder_chooses_what_was_predicted(tmp_path, builder, source):
    manifest = build(source, tmp_path / "e")
    profile = predict(CONFIG, "thor", BATCH, weights=("2bit",))
    predicted = [x.name for x in profile.layers if "decode_then_gemm" in x.kernel["2bit"]]
    assert 0 < len(predicted) < len(SHAPES)
    assert sorted(manifest.tensorrt.decoded_linears) == sorted(predicted)
    assert decode_nodes(builder.models[0]) == list(manifest.tensorrt.decoded_linears)
    assert load_manifest(tmp_path / "e") == manifest
    largest = max(2 * SHAPES[name][0] * SHAPES[name][1] for name in predicted)
    assert profile.memory["2bit"].decoded_bytes == largest


@pytest.mark.parametrize("gpu", ["a100-40", "h100", "l4", "thor"])
@pytest.mark.parametrize("batch", [1, 8, 32])
def test_of_a_large_model_too(gpu, batch):
    """Every linear of DiT-XL/2, the adaLN linears of all blocks as one or one by one."""
    size, length = CONFIGURATIONS[2]
    choose = choose_way("auto", device=gpu, batch=batch)
    for layer in predict(XL, gpu, batch, weights=("2bit",)).layers:
        name = layer.name
        if not name.startswith("blocks.") or layer.kind != "linear":
            continue
        count = XL.depth if "adaLN" in name else 1
        use = LinearUse(
            name=name,
            rows_per_sample=2 * (1 if "adaLN" in name else XL.num_tokens),
            out_features=layer.n,
            row_groups=count * (3 if "qkv" in name else 1),
            layout=Layout(in_features=layer.k, codebook_size=size, sub_vector_len=length),
            is_residual=name.endswith(("attn.proj", "mlp.fc2")),
            count=count,
        )
        is_decoded = "decode_then_gemm" in layer.kernel["2bit"]
        assert (choose(use) == DECODE) == is_decoded, name
        assert (layer.decoded_bytes["2bit"] > 0) == is_decoded


@pytest.mark.parametrize(
    "linears, expected", [(GATHER, []), (DECODE, list(SHAPES))], ids=[GATHER, DECODE]
)
def test_a_way_can_be_forced(tmp_path, builder, source, linears, expected):
    manifest = build(source, tmp_path / "e", linears)
    assert sorted(manifest.tensorrt.decoded_linears) == sorted(expected)
    ops = {node.op_type for node in builder.models[0].graph.node if node.domain == "vq4dit"}
    gathering = {"CodebookGemm", "CodebookGemmResidual"}
    assert ops == ({"CodebookDecode"} if expected else gathering)


@pytest.mark.parametrize("name", ["Orin", "NVIDIA H100 PCIe"])
def test_an_unknown_gpu_gathers(tmp_path, builder, source, name, caplog):
    caplog.set_level("INFO")
    builder.use(replace(THOR, name=name, compute_capability="9.0"))
    assert build(source, tmp_path / "e").tensorrt.decoded_linears == ()
    assert f"{name} is not in the cost model's table" in caplog.text


def test_dense_weights_have_nothing_to_decode(tmp_path, builder, source):
    manifest = build(decoded(source), tmp_path / "e", DECODE)
    assert (manifest.tensorrt.plugin, manifest.tensorrt.decoded_linears) == ("none", ())


def test_the_decoded_weight_counts_as_memory_of_the_builder(tmp_path, builder, monkeypatch, source):
    """A machine with a little less than decoding needs, and enough to gather."""
    needed = []

    def estimate(weight_bytes, **options):
        needed.append(options["decoded_bytes"])
        raise BackendUnavailable("too large")

    monkeypatch.setattr(plan_engine, "require_builder_memory", estimate)
    for linears in (GATHER, DECODE):
        with pytest.raises(BackendUnavailable, match="too large"):
            build(source, tmp_path / "e", linears)
    largest = max(2 * rows * columns for rows, columns in SHAPES.values())
    assert needed == [0, largest]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, source):
    path = tmp_path_factory.mktemp("artifact") / "x.vq.safetensors"
    layouts = {name: layer.layout for name, layer in source.layers.items()}
    info = ArtifactInfo(config=CONFIG, layouts=layouts, source_sha256="0" * 64)
    save_artifact(path, info, source.layers, source.tensors)
    return path


def test_build_and_inspect_tell_which_linears_are_decoded(tmp_path, builder, artifact, capsys):
    command = ["build", str(artifact), "-o", str(tmp_path / "e"), "--target", "tensorrt",
               "--batch", f"1:{BATCH}:{BATCH}", "--no-cache"]  # fmt: skip
    assert main([*command, "--json"]) == 0
    built = json.loads(capsys.readouterr().out)["linears"]
    decoded_linears = load_manifest(tmp_path / "e").tensorrt.decoded_linears
    assert built["decode"] == [name for name in SHAPES if name in decoded_linears]
    assert sorted(built["gather"] + built["decode"]) == sorted(SHAPES)
    assert main(command) == 0
    told = capsys.readouterr().out
    counts = len(built["gather"]), len(built["decode"])
    assert f"{counts[0]} gathered by one kernel, {counts[1]} decoded before a product" in told
    assert main(["inspect", str(tmp_path / "e"), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["linears"] == built
    assert {x["name"]: tuple(x["shape"]) for x in seen["layers"]} == SHAPES
    assert all(2 <= x["bits_per_weight"] < 3 for x in seen["layers"])
    assert main(["inspect", str(tmp_path / "e")]) == 0
    assert f"{counts[1]} of them: decoded before a product" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["cpu", "onnx", "tensorrt-rtx"])
def test_other_targets_refuse_the_option(tmp_path, artifact, target, capsys, builder):
    command = ["build", str(artifact), "-o", str(tmp_path / "e"), "--target", target]
    assert main([*command, "--linears", "decode"]) == 2
    message = f"--linears is for target tensorrt, not for {target}, where quantized linears run in"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    "target, linears, message",
    [
        ("tensorrt", "dense", "linears is 'dense', needed one of auto, gather, decode"),
        ("tensorrt-rtx", "decode", "linears decode is for target tensorrt only"),
    ],
)
def test_options_out_of_range(target, linears, message):
    with pytest.raises(OptionError, match=message):
        PlanOptions(linears=linears).check(target)


def test_every_gpu_of_the_table_can_be_asked():
    for name in GPUS:
        use = LinearUse(
            name="x", rows_per_sample=2, out_features=64, row_groups=1,
            layout=Layout(in_features=64, codebook_size=256, sub_vector_len=4),
        )  # fmt: skip
        assert choose_way("auto", device=name, batch=1)(use) == GATHER
