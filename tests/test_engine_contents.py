"""What an engine's step model holds: equal to its source, and no layer dense by accident."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from support_export import TINY, decoded, random_source

from vq4dit.accounting import size_from_weights
from vq4dit.cli import main
from vq4dit.engine_contents import read_engine_contents
from vq4dit.engine_files import file_entry
from vq4dit.engines.build import build_engine
from vq4dit.engines.manifest import MANIFEST_NAME, load_manifest, manifest_to_json
from vq4dit.engines.targets import TARGETS
from vq4dit.errors import ArtifactError
from vq4dit.export.linear_ways import always
from vq4dit.export.step import build_step_model

#: Wide enough for the order of the CUDA kernels.
CONFIG = replace(TINY, hidden_size=128)
SOURCE = random_source(CONFIG, row_groups=3)


def with_step_model(directory, form, **options):
    """Put a step model of another form into an engine directory, manifest and hashes included."""
    step = build_step_model(SOURCE, directory, form=form, weights="fp16", **options)
    manifest = load_manifest(directory)
    paths = {"step": step.path, "step_data": step.data_path}
    files = manifest.files | {role: file_entry(path) for role, path in paths.items()}
    changed = replace(manifest, form=form, compute_dtype="float16", files=files)
    (directory / MANIFEST_NAME).write_bytes(manifest_to_json(changed))


@pytest.fixture(scope="module", params=["cpu", "onnx", "gather", "decode"])
def engine(request, tmp_path_factory):
    """Engines of two targets, and one whose step model is what target tensorrt builds from."""
    directory = tmp_path_factory.mktemp("engines") / request.param
    if request.param in TARGETS:
        build_engine(SOURCE, directory, target=request.param)
        return directory
    build_engine(SOURCE, directory, target="onnx")
    with_step_model(
        directory, "plugin", assignment_layout=TARGETS["tensorrt"].assignment_layout,
        choose_way=always(request.param),
    )  # fmt: skip
    return directory


def without(directory, manifest, tmp_path, change):
    """A copy of the engine's step model with a change."""
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / manifest.files["step"].name
    model = onnx.load(path, load_external_data=False)
    change(model.graph)
    onnx.save(model, path)
    return tmp_path


def test_layers_have_the_hashes_of_their_source(engine):
    contents = read_engine_contents(engine, load_manifest(engine))
    wanted = size_from_weights(SOURCE)
    assert [x.sha256 for x in contents.size.layers] == [x.sha256 for x in wanted.layers]
    assert [x.group_order for x in contents.size.layers] == [x.group_order for x in wanted.layers]
    assert contents.size.unquantized == ()


def test_inspect_gives_the_bits_and_shapes(engine, capsys):
    assert main(["inspect", str(engine), "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert {x["name"]: tuple(x["shape"]) for x in layers} == CONFIG.block_linear_shapes()
    assert {x["bits"] for x in layers} == {2}
    width = 4 if engine.name in TARGETS else 2  # bytes of a number in a codebook
    for layer in layers:
        weight = SOURCE.layers[layer["name"]]
        num_bytes = weight.assignments.nbytes + width * weight.codebook.size
        assert layer["bytes"] == num_bytes
        assert layer["bits_per_weight"] == 8 * num_bytes / np.prod(layer["shape"])


def test_nodes_are_counted_and_all_files_are_in_the_total(engine):
    contents = read_engine_contents(engine, load_manifest(engine))
    target = TARGETS.get(engine.name)
    is_fused = engine.name != "decode" and (target is None or target.fuse_adaln)
    adaln = 1 if is_fused else CONFIG.depth
    assert contents.num_codebook_nodes == adaln + 4 * CONFIG.depth
    assert contents.size.total_bytes == sum(
        path.stat().st_size for path in engine.iterdir() if path.name != "manifest.json"
    )


def test_dense_engine_lists_every_layer(tmp_path):
    directory = tmp_path / "fp"
    build_engine(decoded(SOURCE), directory, target="onnx")
    contents = read_engine_contents(directory, load_manifest(directory))
    assert contents.num_codebook_nodes == 0
    assert contents.size.unquantized == tuple(CONFIG.block_linear_shapes())
    assert contents.size.bits_per_weight == 32


def test_mixed_layers_are_told_apart(tmp_path):
    source = random_source(CONFIG, bits={"fc1": 3}, dense=("attn.proj", "0.adaLN_modulation.1"))
    build_engine(source, tmp_path / "mixed", target="onnx")
    size = read_engine_contents(tmp_path / "mixed", load_manifest(tmp_path / "mixed")).size
    bits = {layer.name: layer.bits for layer in size.layers}
    assert bits["blocks.0.mlp.fc1"] == 3
    assert bits["blocks.1.adaLN_modulation.1"] == 2
    assert size.unquantized == (
        "blocks.0.adaLN_modulation.1", "blocks.0.attn.proj", "blocks.1.attn.proj",
    )  # fmt: skip


def test_a_layer_that_is_not_there_is_found(engine, tmp_path):
    manifest = load_manifest(engine)

    def change(graph):
        for tensor in list(graph.initializer):
            if tensor.name == "blocks.1.mlp.fc1.assignments":
                graph.initializer.remove(tensor)

    changed = without(engine, manifest, tmp_path, change)
    with pytest.raises(ArtifactError, match=r"blocks\.1\.mlp\.fc1 is 0 times quantized"):
        read_engine_contents(changed, manifest)


def test_a_layer_that_stayed_dense_is_found(engine):
    manifest = load_manifest(engine)
    bits = {**manifest.bits_per_weight, "blocks.0.attn.qkv": 32.0}
    with pytest.raises(ArtifactError, match=r"blocks\.0\.attn\.qkv is quantized .* says 32"):
        read_engine_contents(engine, replace(manifest, bits_per_weight=bits))


def test_a_codebook_of_a_wrong_shape_is_found(engine, tmp_path):
    manifest = load_manifest(engine)

    def change(graph):
        for tensor in graph.initializer:
            if tensor.name == "blocks.1.mlp.fc1.codebook":
                tensor.dims[:] = [2, 64, 8]

    changed = without(engine, manifest, tmp_path, change)
    with pytest.raises(ArtifactError, match=r"blocks\.1\.mlp\.fc1 in the step model"):
        read_engine_contents(changed, manifest)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [("assignment_layout", 7, "7 is not a valid AssignmentLayout"), ("in_features", 64, "shape")],
)
def test_attributes_that_do_not_fit_are_found(engine, tmp_path, attribute, value, message):
    manifest = load_manifest(engine)

    def change(graph):
        (node,) = [n for n in graph.node if "blocks.1.mlp.fc1.assignments" in n.input]
        next(a for a in node.attribute if a.name == attribute).i = value

    changed = without(engine, manifest, tmp_path, change)
    with pytest.raises(ArtifactError, match=rf"blocks\.1\.mlp\.fc1.*{message}"):
        read_engine_contents(changed, manifest)


def test_an_inlined_model_has_rows(tmp_path):
    build_engine(SOURCE, tmp_path, target="onnx")
    with_step_model(tmp_path, "inlined")
    contents = read_engine_contents(tmp_path, load_manifest(tmp_path))
    wanted = size_from_weights(SOURCE)
    assert [x.sha256 for x in contents.size.layers] == [x.sha256 for x in wanted.layers]
    assert contents.num_codebook_nodes == 0


def test_a_file_that_is_no_onnx_model_is_refused(engine, tmp_path):
    manifest = load_manifest(engine)
    (tmp_path / manifest.files["step"].name).write_bytes(b"\xff" * 100)
    with pytest.raises(ArtifactError, match="not an ONNX model"):
        read_engine_contents(tmp_path, manifest)
