"""The step model against the sampler's formulas in torch, in every form and with every option."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from op_models import require_ort_library
from support_export import (
    TINY,
    decoded,
    random_source,
    relative_error,
    run_model,
    step_inputs,
    torch_step,
)
from tolerances import STEP_RELATIVE

from vq4dit.errors import ArtifactError, OptionError
from vq4dit.export.check import check_model
from vq4dit.export.external_data import ExternalData
from vq4dit.export.network import timestep_frequencies
from vq4dit.export.step import build_step_model
from vq4dit.plugins import ort_library_path
from vq4dit.plugins.layout import AssignmentLayout
from vq4dit.plugins.schema import DOMAIN

ROWS, FOUR_MAJOR = AssignmentLayout.ROWS, AssignmentLayout.FOUR_MAJOR
MIXED = {"adaLN": 1, "attn.qkv": 3, "blocks.1.mlp": 4}
INPUTS = ["latent", "noise", "history", "timestep", "label", "cfg_scale", "coefficients"]


def assert_step_equals_torch(path, source, *, num_samples=3, library=None, **options):
    inputs = step_inputs(source.config, num_samples)
    wanted = torch_step(source, inputs, **options)
    found = run_model(path, inputs, library=library)
    for name, a, b in zip(("latent_out", "x_start"), found, wanted, strict=True):
        assert relative_error(a, b) < STEP_RELATIVE, name


@pytest.mark.ort
@pytest.mark.parametrize("layout", [ROWS, FOUR_MAJOR])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, MIXED], ids=str)
def test_every_number_of_bits(tmp_path, bits, layout):
    source = random_source(bits=bits, row_groups=3)
    step = build_step_model(source, tmp_path, assignment_layout=layout)
    check_model(step.path)
    assert step.num_codebook_nodes == 4 * TINY.depth + 1
    assert_step_equals_torch(step.path, source)


@pytest.mark.ort
@pytest.mark.parametrize("form", ["function", "inlined"])
@pytest.mark.parametrize(
    "config, options",
    [
        (TINY, {"cfg": False}),
        (TINY, {"cfg_channels": 4}),
        (TINY, {"cfg_channels": 1}),
        (replace(TINY, learn_sigma=False), {}),
        (replace(TINY, learn_sigma=False), {"cfg_channels": 4}),
        (replace(TINY, patch_size=4, mlp_ratio=2.0), {}),
        (replace(TINY, in_channels=1, input_size=6), {"cfg_channels": 3}),
    ],
    ids=str,
)
def test_options(tmp_path, form, config, options):
    source = random_source(config)
    step = build_step_model(source, tmp_path, form=form, **options)
    check_model(step.path)
    assert_step_equals_torch(step.path, source, **options)


@pytest.mark.ort
@pytest.mark.parametrize("form", ["function", "inlined", "plugin"])
def test_a_dense_source_gives_a_standard_model(tmp_path, form):
    source = decoded(random_source())
    step = build_step_model(source, tmp_path, form=form)
    model = check_model(step.path)
    assert step.num_codebook_nodes == 0
    assert [opset.domain for opset in model.opset_import] == [""]
    assert_step_equals_torch(step.path, source)


@pytest.mark.ort
def test_some_layers_may_stay_dense(tmp_path):
    source = random_source(dense=("blocks.0.adaLN_modulation.1", "attn.proj"))
    step = build_step_model(source, tmp_path)
    check_model(step.path)
    assert step.num_codebook_nodes == 1 + 3 * TINY.depth
    assert_step_equals_torch(step.path, source)


@pytest.mark.ort
@pytest.mark.parametrize("cfg", [True, False])
@pytest.mark.parametrize("form", ["function", "inlined"])
def test_fused_attention_in_place_of_its_parts(tmp_path, form, cfg):
    source = random_source()
    step = build_step_model(source, tmp_path, form=form, cfg=cfg, fuse_attention=True)
    model = check_model(step.path)
    nodes = {node.name: node.op_type for node in model.graph.node}
    assert "Softmax" not in nodes.values()
    assert [nodes[f"blocks.{i}.attn"] for i in range(TINY.depth)] == ["MultiHeadAttention"] * (
        TINY.depth
    )
    assert_step_equals_torch(step.path, source, cfg=cfg)


def test_fused_attention_is_for_float32(tmp_path):
    with pytest.raises(OptionError, match="weights are fp16, needed fp32 for fused attention"):
        build_step_model(random_source(), tmp_path, weights="fp16", fuse_attention=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ort
@pytest.mark.parametrize("layout", [ROWS, FOUR_MAJOR])
def test_stacked_adaln_equals_single_nodes(tmp_path, layout):
    source = random_source(bits=3)
    results = []
    for fuse in (True, False):
        step = build_step_model(
            source, tmp_path / str(fuse), fuse_adaln=fuse, assignment_layout=layout
        )
        assert step.num_codebook_nodes == (1 if fuse else TINY.depth) + 4 * TINY.depth
        results.append(run_model(step.path, step_inputs(TINY, 2))[0])
    assert relative_error(results[0], results[1]) < STEP_RELATIVE


def test_adaln_of_different_sizes_is_not_stacked(tmp_path):
    source = random_source(bits={"blocks.1.adaLN": 4})
    step = build_step_model(source, tmp_path)
    check_model(step.path)
    assert step.num_codebook_nodes == 5 * TINY.depth


@pytest.mark.ort
def test_a_row_does_not_depend_on_the_others(tmp_path):
    source = random_source()
    step = build_step_model(source, tmp_path)
    inputs = step_inputs(TINY, 5)
    whole = run_model(step.path, inputs)
    for row in range(5):
        single = run_model(step.path, {k: v[row : row + 1] for k, v in inputs.items()})
        for a, b in zip(single, whole, strict=True):
            assert relative_error(a[0], b[row]) < STEP_RELATIVE


@pytest.mark.ort
def test_scale_one_equals_a_model_without_guidance(tmp_path):
    source, inputs = random_source(), step_inputs(TINY, 2)
    inputs["cfg_scale"] = np.ones(2, np.float32)
    results = [
        run_model(build_step_model(source, tmp_path / str(cfg), cfg=cfg).path, inputs)[0]
        for cfg in (True, False)
    ]
    assert relative_error(results[0], results[1]) < STEP_RELATIVE


@pytest.mark.ort
@pytest.mark.parametrize("cfg", [True, False])
def test_inputs_and_outputs_are_the_contract(tmp_path, cfg):
    step = build_step_model(random_source(), tmp_path, cfg=cfg)
    session = ort.InferenceSession(str(step.path), providers=["CPUExecutionProvider"])
    image = ["N", 4, 8, 8]
    assert [i.name for i in session.get_inputs()] == INPUTS
    shapes = {i.name: i.shape for i in session.get_inputs()}
    types = {i.name: i.type for i in session.get_inputs()}
    assert shapes["latent"] == shapes["noise"] == shapes["history"] == image
    assert shapes["coefficients"] == ["N", 8]
    assert shapes["timestep"] == shapes["label"] == shapes["cfg_scale"] == ["N"]
    assert types.pop("label") == "tensor(int64)"
    assert set(types.values()) == {"tensor(float)"}
    assert [(o.name, o.shape) for o in session.get_outputs()] == [
        ("latent_out", image),
        ("x_start", image),
    ]


@pytest.mark.parametrize("form", ["function", "inlined", "plugin"])
@pytest.mark.parametrize("layout", [ROWS, FOUR_MAJOR])
def test_the_bytes_are_the_same_each_time(tmp_path, form, layout):
    contents = []
    for name in "ab":
        step = build_step_model(
            random_source(bits=MIXED), tmp_path / name, form=form, assignment_layout=layout
        )
        contents.append((step.path.read_bytes(), step.data_path.read_bytes()))
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == [
            "step.onnx",
            "step.onnx.data",
        ]
    assert contents[0] == contents[1]
    assert str(tmp_path).encode() not in contents[0][0]


@pytest.mark.parametrize("form", ["function", "inlined", "plugin"])
def test_forms(tmp_path, form):
    source = random_source(bits=MIXED)
    step = build_step_model(source, tmp_path, form=form)
    model = check_model(step.path)
    ours = [node for node in model.graph.node if node.domain == DOMAIN]
    # Layers of the same and of different configuration.
    assert step.num_codebook_nodes == 9
    assert len(ours) == (0 if form == "inlined" else 9)
    keys = {(f.name, f.overload) for f in model.functions}
    assert len(keys) == len(model.functions) == (2 if form == "function" else 0)
    names = [name for node in model.graph.node for name in node.output]
    assert len(set(names)) == len(names)
    for function in model.functions:
        assert not {name for node in function.node for name in node.output} & set(names)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


@pytest.mark.ort
@pytest.mark.parametrize("form", ["function", "inlined"])
def test_constant_folding_does_not_make_the_dense_weight(tmp_path, form):
    config = replace(TINY, hidden_size=256, num_heads=4, depth=1)
    source = random_source(config, row_groups=3)
    step = build_step_model(source, tmp_path, form=form)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(str(step.path), options, providers=["CPUExecutionProvider"])
    # ONNX Runtime leaves the external weights where they are and writes what it folded.
    written = (tmp_path / "optimized.onnx").stat().st_size
    dense = sum(4 * x.out_features * x.layout.in_features for x in source.layers.values())
    packed = sum(x.num_bytes for x in source.layers.values())
    assert packed < dense / 10
    assert written < step.num_bytes + dense / 20


@pytest.mark.ort
@pytest.mark.parametrize("layout", [ROWS, FOUR_MAJOR])
@pytest.mark.parametrize("bits", [2, MIXED], ids=str)
def test_the_native_kernels_give_the_same(tmp_path, bits, layout):
    require_ort_library()
    library = ort_library_path()
    source = random_source(bits=bits, row_groups=3)
    for form in ("function", "plugin"):
        step = build_step_model(source, tmp_path / form, form=form, assignment_layout=layout)
        assert_step_equals_torch(step.path, source, library=library)


@pytest.mark.ort
def test_a_file_without_functions_needs_the_library(tmp_path):
    step = build_step_model(random_source(), tmp_path, form="plugin")
    with pytest.raises(Exception, match="not a registered function/op"):
        run_model(step.path, step_inputs(TINY, 1))


@pytest.mark.ort
def test_the_library_wins_over_the_function_body(tmp_path):
    """With a wrong body in the file the result is right only if the library's kernel ran."""
    require_ort_library()
    library = ort_library_path()
    source = random_source()
    step = build_step_model(source, tmp_path)
    model = onnx.load(str(step.path), load_external_data=False)
    for function in model.functions:
        next(node for node in function.node if "bias" in node.input).op_type = "Sub"
    onnx.save(model, step.path)
    inputs = step_inputs(TINY, 2)
    wanted = torch_step(source, inputs)[0]
    assert relative_error(run_model(step.path, inputs)[0], wanted) > 100 * STEP_RELATIVE
    assert relative_error(run_model(step.path, inputs, library=library)[0], wanted) < STEP_RELATIVE


@pytest.mark.parametrize(
    "options, found",
    [
        ({"form": "onnx"}, "form is 'onnx'"),
        ({"cfg_channels": 0}, "cfg_channels is 0"),
        ({"weights": "fp8"}, "'fp8', needed one of fp32, fp16, bf16"),
    ],
)
def test_options_out_of_range(tmp_path, options, found):
    with pytest.raises(OptionError, match=found):
        build_step_model(random_source(), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "missing", ["pos_embed", "y_embedder.embedding_table.weight", "final_layer.linear.bias"]
)
def test_a_missing_tensor_leaves_the_older_files(tmp_path, missing):
    step = build_step_model(random_source(seed=1), tmp_path)
    before = (step.path.read_bytes(), step.data_path.read_bytes())
    source = random_source(seed=2)
    del source.tensors[missing]
    with pytest.raises(ArtifactError, match=missing):
        build_step_model(source, tmp_path)
    assert (step.path.read_bytes(), step.data_path.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_timestep_frequencies_are_those_of_the_public_code():
    torch = pytest.importorskip("torch")
    wanted = torch.exp(-np.log(10000) * torch.arange(128, dtype=torch.float32) / 128).numpy()
    ulps = np.abs(timestep_frequencies().view(np.int32) - wanted.view(np.int32))
    assert ulps.max() <= 1


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    class FullDisk:
        def __init__(self, file):
            self.file = file

        def write(self, content):
            if self.file.tell() > 100_000:
                raise OSError(28, "No space left on device")
            return self.file.write(content)

        def __getattr__(self, name):
            return getattr(self.file, name)

    original = ExternalData.__init__

    def init(self, *arguments):
        original(self, *arguments)
        self._file = FullDisk(self._file)

    monkeypatch.setattr(ExternalData, "__init__", init)
    with pytest.raises(OSError, match="No space left"):
        build_step_model(random_source(), tmp_path)
    assert not list(tmp_path.iterdir())
