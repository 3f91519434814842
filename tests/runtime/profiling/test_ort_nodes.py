"""Reading ONNX Runtime's profile, and the account of its nodes."""

import json
from dataclasses import replace

import pytest
from support_export import TINY, random_source

from vq4dit.errors import Vq4ditError
from vq4dit.export.step import build_step_model
from vq4dit.plugins import ort_library_path
from vq4dit.runtime.ort_session import OrtStepSession
from vq4dit.runtime.profiling.event_cost import EventCost
from vq4dit.runtime.profiling.ort_nodes import account, profile_nodes, runs_of_profile
from vq4dit.runtime.profiling.parts import part_of
from vq4dit.runtime.session import NodeTime

NO_COST = EventCost(per_node_us=0.0, per_tensor_us=0.0, renaming_us=0.0)


def event(name, ts, dur, op="Add", **args):
    args = {"op_name": op, "input_type_shape": [], "output_type_shape": [], **args}
    return {"cat": "Node", "ph": "X", "name": name, "ts": ts, "dur": dur, "args": args}


def run_event(ts, dur):
    return {"cat": "Session", "ph": "X", "name": "model_run", "ts": ts, "dur": dur, "args": {}}


def test_nodes_are_dealt_out_to_runs(tmp_path):
    path = tmp_path / "profile.json"
    shapes = {
        "input_type_shape": [{"float": [2, 8]}, {"int64": []}],
        "output_type_shape": [{"float": [2, 4]}],
        "activation_size": "64", "parameter_size": "16", "output_size": "32",
    }  # fmt: skip
    path.write_text(
        json.dumps(
            [
                {"cat": "Session", "name": "model_loading_uri", "ts": 0, "dur": 3, "args": {}},
                event("a_kernel_time", 11, 4, "Gemm", **shapes),
                event("b_kernel_time", 16, 2),
                event("b_fence_before", 16, 0),
                run_event(10, 10),
                event("a_kernel_time", 31, 5, "Gemm", **shapes),
                event("b_kernel_time", 37, 1),
                run_event(30, 9),
            ]
        )
    )
    runs = runs_of_profile(path)
    assert [[n.duration_us for n in run] for run in runs] == [[4.0, 2.0], [5.0, 1.0]]
    assert runs[1][0] == NodeTime(
        name="a", op="Gemm", duration_us=5.0, start_us=1.0, inputs=((2, 8), ()), outputs=((2, 4),),
        activation_bytes=64, weight_bytes=16, output_bytes=32,
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '[{"name": "model_run"}]', "nonsense"])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(Vq4ditError, match=r"profile.json is not a profile of ONNX Runtime"):
        runs_of_profile(path)


def nodes(*microseconds):
    return [NodeTime(name=f"n{i}", op="Add", duration_us=t) for i, t in enumerate(microseconds)]


def test_account_of_known_times():
    runs = [nodes(10.0, 20.0)] * 3 + [nodes(1000.0, 2000.0)] * 9
    found = account(runs, [4e-5] * 12, [6e-5] * 12, NO_COST)
    assert [n.duration_us for n in found.nodes] == [10.0, 20.0]
    values = found.to_dict()
    assert values["plain_ms"] == pytest.approx(0.04)
    assert values["nodes_ms"] == pytest.approx(0.03)
    assert values["outside_nodes_ms"] == pytest.approx(0.01)
    assert values["closure"] == pytest.approx(0.75)
    assert values["profiled_ms"] == pytest.approx(0.06)
    assert (values["num_nodes"], values["num_runs"]) == (2, 3)


def test_the_profilers_cost_is_taken_off_but_not_below_zero():
    cost = EventCost(per_node_us=1.0, per_tensor_us=0.5, renaming_us=0.0)
    run = [replace(n, inputs=((1,),), outputs=((1,),)) for n in nodes(10.0, 1.5)]
    found = account([run] * 3, [1e-5] * 3, [1e-5] * 3, cost)
    assert [n.duration_us for n in found.nodes] == [8.0, 0.0]
    assert found.to_dict()["reported_nodes_ms"] == pytest.approx(0.0115)


@pytest.mark.parametrize("runs", [[], [[]], [nodes(1.0), nodes(1.0, 2.0)]])
def test_runs_must_have_the_same_nodes(runs):
    with pytest.raises(Vq4ditError, match="needed the same nodes in each"):
        account(runs, [1.0], [1.0], NO_COST)


@pytest.mark.ort
@pytest.mark.parametrize("dense", [(), ("attn.qkv", "proj", "fc1", "fc2", "adaLN_modulation.1")])
def test_a_real_step_model(tmp_path, dense, step_inputs_of_two):
    built = build_step_model(random_source(TINY, dense=dense), tmp_path)
    arguments = {"library": ort_library_path(), "threads": 1}
    plain = OrtStepSession(built.path, **arguments)
    found = profile_nodes(
        lambda prefix: OrtStepSession(built.path, profile_prefix=prefix, **arguments),
        lambda session: session.run(step_inputs_of_two),
        lambda: plain.run(step_inputs_of_two),
        repeats=8,
        budget_seconds=20.0,
        event_cost=NO_COST,
    )
    ops = {node.op for node in found.nodes}
    assert "MatMul" in ops or "FusedMatMul" in ops
    assert ("CodebookGemm" in ops) == (not dense and ort_library_path() is not None)
    parts = {part_of(node.name) for node in found.nodes}
    assert {"attention", "MLP", "adaLN", "embedders", "final layer", "sampler update"} <= parts
    assert found.plain_ms > 0 and found.num_runs == 3
    assert len(found.last_run) == len(found.nodes)
    assert not list(tmp_path.glob("nodes*"))
