"""Nodes of inlined function bodies get the name of the linear whose tensors they work on."""

import pytest
from support_export import TINY, random_source

from vq4dit.export.step import build_step_model
from vq4dit.runtime.ort_session import OrtStepSession
from vq4dit.runtime.profiling.body_names import named_after_linears
from vq4dit.runtime.profiling.event_cost import EventCost
from vq4dit.runtime.profiling.onnx_wire import WireNode
from vq4dit.runtime.profiling.ort_nodes import optimized_path, profile_nodes
from vq4dit.runtime.profiling.parts import layer_of, part_of
from vq4dit.runtime.session import NodeTime

COST = EventCost(per_node_us=0.0, per_tensor_us=0.0, renaming_us=0.0)
BODY = "_inlfunc_CodebookGemm_token_7_"
GRAPH = [
    WireNode(op="Cast", inputs=[f"{BODY}vq1"], outputs=[f"{BODY}vq2"]),
    WireNode(
        op="Gather", inputs=["blocks.1.mlp.fc1.codebook", f"{BODY}vq2"], outputs=[f"{BODY}vq3"]
    ),
    WireNode(op="Add", inputs=["a", "b"], outputs=["blocks.0.attn.proj"]),
    WireNode(op="Mul", inputs=["a", "b"], outputs=["blocks.0.norm1.scaled"]),
    WireNode(op="Squeeze", inputs=["c"], outputs=["d"]),
]  # fmt: skip
NAMES = ("Cast_9", "Gather_8", "Add_7", "blocks.0.norm1.scaled", "Squeeze_token_2")
NODES = [
    NodeTime(name=name, op=node.op, duration_us=1.0)
    for name, node in zip(NAMES, GRAPH, strict=True)
]


def test_known_names():
    assert [node.name for node in named_after_linears(NODES, GRAPH)] == [
        "blocks.1.mlp.fc1.Cast",
        "blocks.1.mlp.fc1.Gather",
        "blocks.0.attn.proj.Add",
        "blocks.0.norm1.scaled",
        "Squeeze_token_2",
    ]


def test_another_graph_changes_nothing():
    assert named_after_linears(NODES, GRAPH[:-1]) == NODES
    assert named_after_linears(NODES, GRAPH[::-1]) == NODES


@pytest.mark.ort
def test_every_body_of_a_real_model_is_told_apart(tmp_path, step_inputs_of_two):
    built = build_step_model(random_source(TINY), tmp_path)
    plain = OrtStepSession(built.path, library=None, threads=1)
    found = profile_nodes(
        lambda prefix: OrtStepSession(
            built.path,
            library=None,
            threads=1,
            profile_prefix=prefix,
            optimized_path=optimized_path(prefix),
        ),
        lambda session: session.run(step_inputs_of_two),
        lambda: plain.run(step_inputs_of_two),
        repeats=3,
        budget_seconds=20.0,
        event_cost=COST,
    )
    gathers = {
        layer_of(node.name, "") for node in found.nodes
        if node.op == "Gather" and part_of(node.name) not in ("embedders", None)
    }  # fmt: skip
    linears = {name for name in TINY.block_linear_shapes() if "adaLN" not in name}
    assert linears <= gathers and "blocks.adaLN_modulation.1" in gathers
    silent = [node for node in found.nodes if part_of(node.name) is None]
    assert sum(node.duration_us for node in silent) < 0.2 * 1e3 * found.nodes_ms
    assert not list(tmp_path.glob("nodes*"))
