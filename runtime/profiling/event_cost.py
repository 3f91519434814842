"""How much ONNX Runtime's profiler adds to the time that it reports for a node.

It writes the shapes of all inputs and outputs as text before it reads the clock again, so a node of
1 us is reported with 4. The cost is measured on models of many cheap nodes, with few and with many
tensors a node: reported time of all nodes less the time of the same run without profiler. It is the
same for every node with as many tensors, whatever the node does; but in a large engine, whose data
push the profiler's out of the caches, it is larger than in a small probe. There the engine's own
nodes that only rename a buffer tell it: all that they are reported with, but a probe's share.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vq4dit.runtime.session import NodeTime

from .latency import mean_of_fastest
from .onnx_wire import WireNode, model_bytes

_CHAIN = 128
_FAN = 24
_FAN_PAIRS = 24
_RUNS = 24

#: Elements of the tensors: several lengths, so that times are cut off to whole us at all places.
_WIDTHS = (8, 512, 2048, 4096)

#: Ops that give their input's buffer another shape.
_RENAMING = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten"})


#: Percentile of the renaming nodes' times that counts: some of them do copy.
_CHEAP = 25


@dataclass(frozen=True, kw_only=True)
class EventCost:
    """Microseconds that the profiler adds to a node: a part for all, and one per tensor.

    `renaming_us` is what a node that only renames a buffer takes without profiler.
    """

    per_node_us: float
    per_tensor_us: float
    renaming_us: float

    def of(self, num_tensors: int) -> float:
        """Microseconds added to a node with so many inputs and outputs."""
        return self.per_node_us + self.per_tensor_us * num_tensors

    def seen_by(self, nodes: Sequence[NodeTime]) -> EventCost:
        """The cost in the engine that these nodes are from, reported times averaged over runs."""
        shares = [
            node.duration_us - self.per_tensor_us * (len(node.inputs) + len(node.outputs))
            for node in nodes
            if node.op in _RENAMING
        ]
        if not shares:
            return self
        cheap = float(np.percentile(shares, _CHEAP))
        return replace(self, per_node_us=max(0.0, cheap - self.renaming_us))


def measure_event_cost() -> EventCost:
    """Measure on this machine; takes about a second."""
    few = float(np.mean([_probe(_chain("Neg"), width).added_us for width in _WIDTHS]))
    many = float(np.mean([_probe(_fans(), width * _FAN).added_us for width in _WIDTHS]))
    per_tensor = max(0.0, (many - few) / (_FAN + 1 - 2))
    return EventCost(
        per_node_us=max(0.0, few - 2 * per_tensor),
        per_tensor_us=per_tensor,
        renaming_us=_probe(_chain("Identity"), _WIDTHS[0]).plain_us,
    )


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """Microseconds of a probe's node without profiler, and what the profiler adds to it."""

    plain_us: float
    added_us: float


def _probe(nodes: Sequence[WireNode], width: int) -> _Probe:
    """Run a probe with and without profiler in turn; width: elements of its input and output."""
    shape = (1, width)
    model = model_bytes(nodes, inputs={"x0": shape}, outputs={nodes[-1].outputs[0]: shape})
    feeds = {"x0": np.ones(shape, np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        plain = _session(model, None)
        profiled = _session(model, Path(folder, "probe"))
        seconds = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            plain.run(None, feeds)
            seconds.append(time.perf_counter() - start)
            profiled.run(None, feeds)
        events = json.loads(Path(profiled.end_profiling()).read_text())
    plain_us = 1e6 * mean_of_fastest(seconds) / len(nodes)
    reported_us = mean_of_fastest(_reported_us(events)) / len(nodes)
    return _Probe(plain_us=plain_us, added_us=reported_us - plain_us)


def _session(model: bytes, profile_prefix: Path | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _reported_us(events: list[dict[str, Any]]) -> list[float]:
    """Sum of the nodes' times of each run."""
    sums: list[float] = []
    pending = 0.0
    for event in events:
        if event.get("cat") == "Node":
            pending += event["dur"]
        elif event.get("name") == "model_run":
            sums.append(pending)
            pending = 0.0
    return sums


def _chain(op: str) -> list[WireNode]:
    """Many nodes with one input and one output."""
    return [WireNode(op=op, inputs=[f"x{i}"], outputs=[f"x{i + 1}"]) for i in range(_CHAIN)]


def _fans() -> list[WireNode]:
    """Nodes with many outputs and nodes with many inputs, in turn."""
    axis: Mapping[str, int] = {"axis": 1}
    nodes = []
    for i in range(_FAN_PAIRS):
        parts = [f"p{i}.{k}" for k in range(_FAN)]
        nodes.append(WireNode(op="Split", inputs=[f"x{i}"], outputs=parts, integers=axis))
        nodes.append(WireNode(op="Concat", inputs=parts, outputs=[f"x{i + 1}"], integers=axis))
    return nodes
