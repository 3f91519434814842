"""Run a loaded plan on one stream: buffers bound once, a CUDA graph per batch shape.

A run writes its inputs to pinned host memory, queues their copies, the plan and the copies of the
outputs, and waits. From the second run of a batch shape on all of that is one graph launch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import ArtifactError, OptionError, Vq4ditError

from .cuda_calls import BufferPair, Cuda, Graph, Stream, out_of_gpu_memory
from .profiling.trt_nodes import plan_node_times
from .session import NodeTime
from .trt_plan import LoadedPlan

_log = logging.getLogger(__name__)

#: The plans have one optimization profile.
_PROFILE = 0

#: TensorRT's data types by name -> NumPy's.
_DTYPES = {"FLOAT": np.float32, "INT64": np.int64, "INT32": np.int32}

Tensors = Mapping[str, NDArray[Any]]


class PlanRunner:
    """Runs one plan; for one thread at a time.

    Args:
        plan: the loaded plan.
        inputs, outputs: names that it must have, and no others.
        optional: those of the inputs that it may lack, since it does not read them.
    Raises:
        ArtifactError: the plan has other inputs, outputs or types.
        BackendUnavailable: no GPU, or not enough of its memory.
    """

    def __init__(
        self,
        plan: LoadedPlan,
        *,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        optional: tuple[str, ...] = (),
    ) -> None:
        self._plan: LoadedPlan | None = plan
        self._inputs = _check_interface(plan, inputs, outputs, optional)
        self._outputs = outputs
        self._buffers: dict[str, BufferPair] = {}
        self._stream: Stream | None = None
        self._graph: Graph | None = None
        self._context: Any = None
        self._batch = 0
        self._can_capture = True
        shapes = [plan.engine.get_tensor_profile_shape(name, _PROFILE) for name in self._inputs]
        self.batch_min = max(int(shape[0][0]) for shape in shapes)
        self.batch_max = min(int(shape[2][0]) for shape in shapes)
        try:
            self._bind(plan)
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run the plan; every input has the batch as its first dimension.

        Raises:
            OptionError: the batch is outside the profile.
            Vq4ditError: CUDA or TensorRT failed.
        """
        if self._context is None or self._stream is None:
            raise OptionError("this session is closed; open the engine again")
        batch = len(next(iter(feeds.values())))
        self._set_batch(batch)
        for name in self._inputs:
            self._buffers[name].host[:batch] = feeds[name]
        if self._graph is not None:
            self._graph.launch(self._stream)
            self._stream.synchronize()
        else:
            self._queue(self._stream)
            self._stream.synchronize()
            self._graph = self._capture(self._stream)
        return {name: self._buffers[name].host[:batch].copy() for name in self._outputs}

    def node_times(self, feeds: Tensors, *, repeats: int) -> list[list[NodeTime]]:
        """Time the plan's layers, on a context of its own that shares the buffers.

        Raises:
            BackendUnavailable: not enough memory for a second context.
            OptionError, Vq4ditError: as `run`, or TensorRT tells no times.
        """
        plan, stream = self._plan, self._stream
        if plan is None or stream is None:
            raise OptionError("this session is closed; open the engine again")
        self.run(feeds)  # inputs are on the device now
        context = plan.engine.create_execution_context()
        if context is None:
            raise out_of_gpu_memory("; ".join(plan.errors[-1:]) or "execution context")
        for name, buffers in self._buffers.items():
            if not context.set_tensor_address(name, buffers.device):
                raise self._failure(f"binding {name}")
        for name in self._inputs:
            shape = (self._batch, *self._buffers[name].host.shape[1:])
            if not context.set_input_shape(name, shape):
                raise self._failure(f"setting the shape of {name}")

        def run_plan() -> None:
            if not context.execute_async_v3(int(stream.handle)):
                raise self._failure("timing its layers")
            stream.synchronize()

        return plan_node_times(plan.trt, context, run_plan, repeats=repeats)

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        self._drop_graph()
        if self._plan is not None and self._plan.kernel_cache is not None:
            self._plan.kernel_cache.save()
        self._context = None
        for buffers in self._buffers.values():
            buffers.close()
        self._buffers = {}
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        self._plan = None

    def _bind(self, plan: LoadedPlan) -> None:
        """Make context, stream and buffers for the largest batch, and bind every tensor."""
        cuda = Cuda()
        self._context = plan.create_context()
        if self._context is None:
            raise out_of_gpu_memory("; ".join(plan.errors[-1:]) or "execution context")
        self._stream = Stream(cuda)
        for name in (*self._inputs, *self._outputs):
            shape = tuple(plan.engine.get_tensor_shape(name))
            buffers = BufferPair(cuda, (self.batch_max, *shape[1:]), _dtype(plan, name))
            self._buffers[name] = buffers
            if not self._context.set_tensor_address(name, buffers.device):
                raise self._failure(f"binding {name}")

    def _set_batch(self, batch: int) -> None:
        """Tell the context the shapes of this batch; another batch needs another graph."""
        if not self.batch_min <= batch <= self.batch_max:
            raise OptionError(
                f"batch is {batch}, the plan takes {self.batch_min}..{self.batch_max}; split the "
                "request, or build with another --batch"
            )
        if batch == self._batch:
            return
        self._drop_graph()
        self._batch = 0
        for name in self._inputs:
            shape = (batch, *self._buffers[name].host.shape[1:])
            if not self._context.set_input_shape(name, shape):
                raise self._failure(f"setting the shape of {name}")
        unset = self._context.infer_shapes()
        if unset:
            raise self._failure(f"inferring the shapes of {', '.join(unset)}")
        self._batch = batch

    def _queue(self, stream: Stream) -> None:
        """Queue the copies and the plan for the current batch."""
        for name in self._inputs:
            self._buffers[name].upload(stream, self._num_bytes(name))
        if not self._context.execute_async_v3(int(stream.handle)):
            raise self._failure("running the plan")
        for name in self._outputs:
            self._buffers[name].download(stream, self._num_bytes(name))

    def _capture(self, stream: Stream) -> Graph | None:
        """Record the current batch's work; None where the plan cannot be recorded, or not yet.

        TensorRT-RTX compiles kernels for a shape while others already run, and says when it has.
        """
        is_capturable = getattr(self._context, "is_stream_capturable", None)
        if not self._can_capture or (is_capturable and not is_capturable(int(stream.handle))):
            return None
        stream.begin_capture()
        try:
            self._queue(stream)
        except Vq4ditError as error:
            stream.abandon_capture()
            self._can_capture = False
            _log.warning("the plan runs without a CUDA graph, a little slower (%s)", error)
            return None
        return stream.end_capture()

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self._graph = None

    def _num_bytes(self, name: str) -> int:
        buffers = self._buffers[name]
        return int(buffers.num_bytes // self.batch_max * self._batch)

    def _failure(self, what: str) -> Vq4ditError:
        errors = [] if self._plan is None else self._plan.errors
        words = "; ".join(errors[-2:]) or "no reason given"
        if "memory" in words.lower():
            return out_of_gpu_memory(words)
        return Vq4ditError(f"TensorRT failed while {what} ({words}); build the engine again")


def _check_interface(
    plan: LoadedPlan,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    optional: tuple[str, ...],
) -> tuple[str, ...]:
    """The inputs that a plan has; ArtifactError where names, directions or types are not ours."""
    engine, modes = plan.engine, plan.trt.TensorIOMode
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {
        mode: {name for name in names if engine.get_tensor_mode(name) == mode}
        for mode in (modes.INPUT, modes.OUTPUT)
    }
    if found[modes.INPUT] | set(optional) != set(inputs) or found[modes.OUTPUT] != set(outputs):
        raise ArtifactError(
            f"the plan has the tensors {sorted(names)}, needed the inputs {sorted(inputs)} and the "
            f"outputs {sorted(outputs)}; build the engine again"
        )
    for name in names:
        _dtype(plan, name)
    return tuple(name for name in inputs if name in names)


def _dtype(plan: LoadedPlan, name: str) -> Any:
    found = plan.engine.get_tensor_dtype(name).name
    if found not in _DTYPES:
        raise ArtifactError(
            f"the plan's tensor {name} is of type {found}, needed one of {', '.join(_DTYPES)}; "
            "build the engine again"
        )
    return _DTYPES[found]
