"""A timeline for Chrome (chrome://tracing) and Perfetto: a whole picture, and the nodes of a step.

Each engine is a process with three threads: the host's share of a picture, the engine's runs, and
the nodes of one profiled step inside the parts of the DiT that they belong to. The nodes are from a
run with ONNX Runtime's profiler on, so they take longer than in the picture.
Source: "Trace Event Format" (complete events "X", metadata events "M"; microseconds).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from vq4dit.json_file import write_json
from vq4dit.runtime.session import NodeTime

from .engine_under_test import EngineTrace
from .parts import parts_of
from .timed_sessions import RunLog

_HOST, _ENGINE, _NODES = 1, 2, 3
_THREADS = {
    _HOST: "picture: host",
    _ENGINE: "picture: engine",
    _NODES: "one step: nodes (profiled)",
}


def write_trace(path: Path, traces: Sequence[EngineTrace]) -> None:
    """Write the timelines of some engines as one JSON file, whole or not at all."""
    write_json(path, {"traceEvents": trace_events(traces), "displayTimeUnit": "ms"})


def trace_events(traces: Sequence[EngineTrace]) -> list[dict[str, Any]]:
    """All events, each engine's from time 0."""
    return [event for pid, t in enumerate(traces, start=1) for event in _engine_events(pid, t)]


def _engine_events(pid: int, trace: EngineTrace) -> Iterator[dict[str, Any]]:
    yield _name(pid, 0, "process_name", trace.name)
    for tid, name in _THREADS.items():
        yield _name(pid, tid, "thread_name", name)
    runs = [
        *((b, e, f"step {i + 1}") for i, (b, e) in enumerate(_spans(trace.steps))),
        *((b, e, "decode") for b, e in _spans(trace.decodes)),
    ]
    last = trace.begin
    for begin, end, name in sorted(runs):
        yield _span(pid, _HOST, "host", last - trace.begin, begin - last)
        yield _span(pid, _ENGINE, name, begin - trace.begin, end - begin)
        last = end
    yield _span(pid, _HOST, "host", last - trace.begin, trace.end - last)
    yield from _node_events(pid, trace.nodes)


def _node_events(pid: int, nodes: Sequence[NodeTime]) -> Iterator[dict[str, Any]]:
    """Parts of the DiT, and within each its nodes; nodes without a start follow one another."""
    starts, now = [], 0.0
    for node in nodes:
        start = now if node.start_us is None else node.start_us
        starts.append(start)
        now = start + node.duration_us
    tagged = list(zip(nodes, starts, parts_of(node.name for node in nodes), strict=True))
    for part, group in groupby(tagged, key=lambda item: item[2]):
        members = list(group)
        begin = members[0][1]
        end = members[-1][1] + members[-1][0].duration_us
        yield _span(pid, _NODES, part, begin / 1e6, (end - begin) / 1e6)
        for node, start, _ in members:
            event = _span(pid, _NODES, node.name, start / 1e6, node.duration_us / 1e6)
            yield {**event, "cat": part, "args": _arguments(node)}


def _arguments(node: NodeTime) -> dict[str, Any]:
    return {
        "op": node.op,
        "inputs": [list(shape) for shape in node.inputs],
        "outputs": [list(shape) for shape in node.outputs],
        "weight_bytes": node.weight_bytes,
    }


def _spans(log: RunLog) -> list[tuple[float, float]]:
    return list(zip(log.begins, log.ends, strict=True))


def _span(pid: int, tid: int, name: str, begin: float, seconds: float) -> dict[str, Any]:
    """A complete event; begin and duration in seconds."""
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "cat": name.split()[0],
            "ts": 1e6 * begin, "dur": 1e6 * seconds}  # fmt: skip


def _name(pid: int, tid: int, kind: str, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": pid, "tid": tid, "name": kind, "args": {"name": name}}
