"""Times of an engine's nodes by ONNX Runtime's own profiler, in runs of their own.

Plain and profiled runs alternate, so that both meet the same load and the sum of the nodes can be
held against a run without profiler. Of all runs the fastest quarter counts.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vq4dit.errors import Vq4ditError
from vq4dit.runtime.session import NodeTime, Shape

from .body_names import named_after_linears
from .event_cost import EventCost
from .latency import MIN_REPEATS, fastest, mean_of_fastest
from .onnx_wire import read_nodes

_BYTES_OF = {"double": 8, "int64": 8, "uint64": 8, "float": 4, "int32": 4, "uint32": 4,
             "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2}  # fmt: skip


class Profiled(Protocol):
    """A session of ONNX Runtime with its profiler on."""

    def end_profiling(self) -> Path:
        """Write the profile and give its path."""

    def close(self) -> None:
        """Free the session."""


@dataclass(frozen=True, kw_only=True)
class NodeProfile:
    """Mean times of the nodes of a run, and how their sum compares with a run without profiler.

    Args:
        nodes: in order; `duration_us` without the profiler's own cost, dispatch included.
        reported: the same as the profiler reports them.
        last_run: one run as reported, for a trace.
        plain_ms: mean of the plain runs; profiled_ms: of the runs with profiler.
        event_cost: what was taken off each node.
        num_runs: profiled runs that the means are over.
    """

    nodes: tuple[NodeTime, ...]
    reported: tuple[NodeTime, ...]
    last_run: tuple[NodeTime, ...]
    plain_ms: float
    profiled_ms: float
    event_cost: EventCost
    num_runs: int

    @property
    def nodes_ms(self) -> float:
        """Sum of the parts."""
        return sum(node.duration_us for node in self.nodes) / 1e3

    @property
    def closure(self) -> float:
        """Sum of the parts over the whole, 1 where nothing is missing or counted twice."""
        return self.nodes_ms / self.plain_ms

    def to_dict(self) -> dict[str, float]:
        """The account for JSON."""
        reported_ms = sum(node.duration_us for node in self.reported) / 1e3
        return {
            "plain_ms": self.plain_ms,
            "nodes_ms": self.nodes_ms,
            "outside_nodes_ms": self.plain_ms - self.nodes_ms,
            "closure": self.closure,
            "reported_nodes_ms": reported_ms,
            "reported_closure": reported_ms / self.plain_ms,
            "profiled_ms": self.profiled_ms,
            "event_cost_us": self.event_cost.per_node_us,
            "event_cost_per_tensor_us": self.event_cost.per_tensor_us,
            "num_nodes": len(self.nodes),
            "num_runs": self.num_runs,
        }


def profile_nodes(
    open_profiled: Callable[[Path], Profiled],
    run_profiled: Callable[[Any], object],
    run_plain: Callable[[], object],
    *,
    repeats: int,
    budget_seconds: float,
    event_cost: EventCost,
) -> NodeProfile:
    """Alternate plain and profiled runs and account for the nodes.

    Args:
        open_profiled: opens the model with the profiler on and a path to begin the profile's with;
            where it writes the optimised graph to `optimized_path`, that names unnamed nodes.
        run_profiled: one run of what was opened; run_plain: the same run without profiler.
        repeats: runs of each; fewer, but MIN_REPEATS, when they take over budget_seconds.
        event_cost: the profiler's cost per node, from `measure_event_cost`.
    Raises:
        Vq4ditError: the profile is not as expected.
    """
    warm_up = 2
    with tempfile.TemporaryDirectory(prefix="vq4dit-profile-") as folder:
        prefix = Path(folder, "nodes")
        session = open_profiled(prefix)
        try:
            for _ in range(warm_up):
                run_profiled(session)
                run_plain()
            plain: list[float] = []
            profiled: list[float] = []
            begin = time.perf_counter()
            while len(plain) < repeats:
                if len(plain) >= MIN_REPEATS and time.perf_counter() - begin > budget_seconds:
                    break
                plain.append(_seconds(run_plain))
                profiled.append(_seconds(lambda: run_profiled(session)))
            runs = runs_of_profile(session.end_profiling())[warm_up:]
            graph = optimized_path(prefix)
            if graph.is_file():
                nodes = read_nodes(graph.read_bytes())
                runs = [named_after_linears(run, nodes) for run in runs]
        finally:
            session.close()
    return account(runs, plain, profiled, event_cost)


def optimized_path(prefix: Path) -> Path:
    """Where the optimised graph lies beside a profile of this prefix."""
    return prefix.with_suffix(".onnx")


def account(
    runs: Sequence[Sequence[NodeTime]],
    plain_seconds: Sequence[float],
    profiled_seconds: Sequence[float],
    event_cost: EventCost,
) -> NodeProfile:
    """Means over the fastest quarter of the runs, with the profiler's cost taken off each node.

    Raises:
        Vq4ditError: the runs do not have the same nodes, or there are none.
    """
    if not runs or not runs[0] or len({tuple(n.name for n in run) for run in runs}) != 1:
        raise Vq4ditError(
            f"the profile holds runs of {sorted({len(run) for run in runs})} nodes, needed the "
            "same nodes in each; profile again with --no-layers"
        )
    chosen = fastest([sum(node.duration_us for node in run) for run in runs])
    durations = np.array([[node.duration_us for node in runs[i]] for i in chosen]).mean(axis=0)
    reported = tuple(
        replace(node, duration_us=float(mean))
        for node, mean in zip(runs[0], durations, strict=True)
    )
    cost = event_cost.seen_by(reported)
    nodes = tuple(
        replace(
            node,
            duration_us=max(0.0, node.duration_us - cost.of(len(node.inputs) + len(node.outputs))),
        )
        for node in reported
    )
    return NodeProfile(
        nodes=nodes,
        reported=reported,
        last_run=tuple(runs[chosen[-1]]),
        plain_ms=1e3 * mean_of_fastest(plain_seconds),
        profiled_ms=1e3 * mean_of_fastest(profiled_seconds),
        event_cost=cost,
        num_runs=len(chosen),
    )


def runs_of_profile(path: Path) -> list[list[NodeTime]]:
    """Read a profile of ONNX Runtime: for each run its nodes in order, times from the run's begin.

    Raises:
        Vq4ditError: not a profile.
    """
    try:
        events = json.loads(path.read_text(encoding="utf-8"))
        spans = [(e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "model_run"]
        nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        return [
            [_node_time(e, begin) for e in nodes if begin <= e["ts"] <= end] for begin, end in spans
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Vq4ditError(
            f"{path.name} is not a profile of ONNX Runtime as expected ({error!r}); "
            "profile again with --no-layers"
        ) from None


def _node_time(event: dict[str, Any], run_start: float) -> NodeTime:
    args = event["args"]
    return NodeTime(
        name=event["name"].removesuffix("_kernel_time"),
        op=args["op_name"],
        duration_us=float(event["dur"]),
        start_us=float(event["ts"] - run_start),
        inputs=_shapes(args.get("input_type_shape", [])),
        outputs=_shapes(args.get("output_type_shape", [])),
        activation_bytes=int(args.get("activation_size", 0)),
        weight_bytes=int(args.get("parameter_size", 0)),
        output_bytes=int(
            args.get("output_size", 0) or _num_bytes(args.get("output_type_shape", []))
        ),
    )


def _shapes(tensors: Sequence[dict[str, list[int]]]) -> tuple[Shape, ...]:
    """[{"float": [2, 8]}, ...] -> ((2, 8), ...)."""
    return tuple(tuple(shape) for tensor in tensors for shape in tensor.values())


def _num_bytes(tensors: Sequence[dict[str, list[int]]]) -> int:
    return sum(_BYTES_OF.get(t, 1) * prod(s) for tensor in tensors for t, s in tensor.items())


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
