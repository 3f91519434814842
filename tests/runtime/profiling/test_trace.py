"""The timeline: spans lie where they were measured, nodes inside their parts."""

import json

import pytest
from profile_document import nodes

from vq4dit.runtime.profiling.engine_under_test import EngineTrace
from vq4dit.runtime.profiling.timed_sessions import RunLog
from vq4dit.runtime.profiling.trace import trace_events, write_trace
from vq4dit.runtime.session import NodeTime

TRACE = EngineTrace(
    name="calibrated", begin=100.0, end=100.030,
    steps=RunLog(begins=[100.001, 100.011], ends=[100.010, 100.020]),
    decodes=RunLog(begins=[100.021], ends=[100.029]),
    nodes=tuple(nodes()),
)  # fmt: skip


def spans(events, tid):
    return [e for e in events if e["ph"] == "X" and e["tid"] == tid]


def test_engine_and_host_take_turns_without_a_gap():
    events = trace_events([TRACE])
    engine, host = spans(events, 2), spans(events, 1)
    assert [e["name"] for e in engine] == ["step 1", "step 2", "decode"]
    assert engine[0]["ts"] == pytest.approx(1000) and engine[0]["dur"] == pytest.approx(9000)
    total = sum(e["dur"] for e in engine + host)
    assert total == pytest.approx(30_000)
    ordered = sorted(engine + host, key=lambda e: e["ts"])
    for one, next_one in zip(ordered, ordered[1:], strict=False):
        assert one["ts"] + one["dur"] == pytest.approx(next_one["ts"])


def test_nodes_lie_inside_parts():
    found = spans(trace_events([TRACE]), 3)
    parts = [e for e in found if "args" not in e]
    children = [e for e in found if "args" in e]
    assert len(children) == len(TRACE.nodes)
    for child in children:
        around = [
            p for p in parts
            if p["ts"] <= child["ts"] and child["ts"] + child["dur"] <= p["ts"] + p["dur"] + 1e-6
        ]  # fmt: skip
        assert [p["name"] for p in around] == [child["cat"]]


def test_nodes_without_a_start_follow_one_another():
    node = NodeTime(name="blocks.0.attn.q", op="Transpose", duration_us=5.0)
    trace = EngineTrace(
        name="e", begin=0.0, end=0.0, steps=RunLog(), decodes=RunLog(), nodes=(node, node)
    )
    starts = [e["ts"] for e in spans(trace_events([trace]), 3) if "args" in e]
    assert starts == pytest.approx([0.0, 5.0])


def test_engines_are_processes_with_names(tmp_path):
    write_trace(tmp_path / "trace.json", [TRACE, TRACE])
    values = json.loads((tmp_path / "trace.json").read_text())
    names = {(e["pid"], e["args"]["name"]) for e in values["traceEvents"]
             if e["name"] == "process_name"}  # fmt: skip
    assert names == {(1, "calibrated"), (2, "calibrated")}
    assert all(e["dur"] >= 0 for e in values["traceEvents"] if e["ph"] == "X")
