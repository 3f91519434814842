"""Times of a plan's layers by TensorRT's IProfiler, for a session's `node_times`.

TensorRT's module and an execution context are given, so that nothing is imported here. The context
keeps its profiler: take one of its own, not the one that runs steps.
Source: TensorRT API reference, IProfiler and IExecutionContext (enqueue_emits_profile,
report_to_profiler). Layers come with the names of the nodes that were fused into them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vq4dit.errors import Vq4ditError
from vq4dit.runtime.session import NodeTime

#: TensorRT's names of layers that move data between formats only.
_MOVES = ("Reformatting", "copy", "Copy")


def plan_node_times(
    trt: Any, context: Any, run: Callable[[], None], *, repeats: int
) -> list[list[NodeTime]]:
    """Run a plan with a profiler attached and give the layers of each run, in order.

    Args:
        trt: the module of TensorRT.
        context: an execution context with shapes and addresses set.
        run: queues the plan on this context and waits; not as a CUDA graph.
        repeats: runs, after one that does not count.
    Raises:
        Vq4ditError: TensorRT gives no times.
    """
    recorder = _recorder(trt)
    context.profiler = recorder
    context.enqueue_emits_profile = False  # one report per run, after it has ended
    runs = []
    for _ in range(repeats + 1):
        recorder.layers = []
        run()
        if not context.report_to_profiler() or not recorder.layers:
            raise Vq4ditError(
                "TensorRT gave no times of layers; profile with --no-layers, or use "
                "trtexec --dumpProfile"
            )
        runs.append([_node_time(name, ms) for name, ms in recorder.layers])
    return runs[1:]


def _recorder(trt: Any) -> Any:
    """An IProfiler that keeps (name, milliseconds) of each layer in `layers`."""

    class Recorder(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.layers: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT for each layer."""
            self.layers.append((layer_name, ms))

    return Recorder()


def _node_time(name: str, ms: float) -> NodeTime:
    is_move = name.startswith(_MOVES)
    return NodeTime(name=name, op="move" if is_move else "layer", duration_us=1e3 * ms)
