"""Nodes of exported graphs land in the operation that they belong to."""

import onnx
import pytest
from support_export import TINY, random_source

from vq4dit.export.linear_ways import DECODE, GATHER, always
from vq4dit.export.step import build_step_model
from vq4dit.prediction.attribution import seconds_by_op
from vq4dit.prediction.step_ops import PARTS, step_ops
from vq4dit.runtime.profiling.parts import PARTS as MEASURED_PARTS
from vq4dit.runtime.profiling.parts import part_of
from vq4dit.runtime.session import NodeTime


@pytest.mark.parametrize(
    ("dense", "way"),
    [((), GATHER), (("qkv", "proj", "fc1", "fc2", ".1"), GATHER), ((), DECODE)],
    ids=["gathered", "dense", "decoded"],
)
def test_every_node_of_an_exported_step_belongs_to_an_operation_of_its_part(tmp_path, dense, way):
    step = build_step_model(random_source(TINY, dense=dense), tmp_path, choose_way=always(way))
    graph = onnx.load(step.path, load_external_data=False).graph
    ops = {op.name: op for op in step_ops(TINY, 2)}
    for node in graph.node:
        seconds = seconds_by_op(
            list(ops.values()), [NodeTime(name=node.name, op=node.op_type, duration_us=1.0)]
        )
        (name,) = [op for op, amount in seconds.items() if amount]
        part = part_of(node.name)
        if part != ops[name].part:  # the profile counts these with the layer before them
            assert (name, part) == ("update", "final layer"), node.name


def test_unnamed_nodes_join_the_one_before():
    ops = step_ops(TINY, 1)
    nodes = [
        NodeTime(name="blocks.0.mlp.fc1", op="CodebookGemm", duration_us=3.0),
        NodeTime(name="Reorder_7", op="ReorderOutput", duration_us=2.0),
    ]
    assert seconds_by_op(ops, nodes)["blocks.0.mlp.fc1"] == pytest.approx(5e-6)


def test_parts_are_those_of_the_measured_profile():
    assert set(PARTS) <= set(MEASURED_PARTS)
