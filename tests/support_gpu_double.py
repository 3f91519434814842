"""A GPU made of host memory: stands for `cuda.bindings.runtime` and for TensorRT's runtime.

Work is queued and done no sooner than the stream is synchronised, so that code which reads results
too early gets old bytes. Every call is written down. What stands in for a class of TensorRT has
methods of the same names and parameters, which `test_gpu_double` compares with the real bindings.
"""

import ctypes
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
from cuda.bindings import runtime as real_cuda

from vq4dit.gpu_build import GpuBuild
from vq4dit.runtime.gpu import Driver, Gpu

SUCCESS = real_cuda.cudaError_t.cudaSuccess
GPU = Gpu(name="Orin", compute_capability="8.7", memory_bytes=8 << 30, is_integrated=True)
DRIVER = Driver(version="580.1", cuda_version="13.2", gpus=(GPU,))
BUILD = GpuBuild(
    version="11.4.0.106", compute_capabilities=("8.7",), gpu="Orin", cuda_version="13.2",
    driver_version="580.1", plugin="aot", version_compatible=False, batch_opt=2,
)  # fmt: skip


class CudaDouble:
    """The functions of `cuda.bindings.runtime` that sessions call; its enums are the real ones."""

    cudaError_t = real_cuda.cudaError_t
    cudaMemcpyKind = real_cuda.cudaMemcpyKind
    cudaStreamCaptureMode = real_cuda.cudaStreamCaptureMode
    cudaStreamNonBlocking = real_cuda.cudaStreamNonBlocking

    def __init__(self, *, num_gpus=1, fail=None):
        self.calls = []
        self.num_gpus = num_gpus
        self.fail = fail or {}
        self.memory = {"device": {}, "host": {}}
        self.streams, self.recordings, self.graphs = {}, {}, {}
        self._next = 1

    def count(self, name):
        return Counter(call[0] for call in self.calls)[name]

    def cudaGetDeviceCount(self):
        return self._do("cudaGetDeviceCount", (), lambda: self.num_gpus)

    def cudaMalloc(self, size):
        return self._do("cudaMalloc", (size,), lambda: self._allocate("device", size))

    def cudaMallocHost(self, size):
        return self._do("cudaMallocHost", (size,), lambda: self._allocate("host", size))

    def cudaFree(self, devPtr):
        return self._do("cudaFree", (devPtr,), lambda: self._release("device", devPtr))

    def cudaFreeHost(self, ptr):
        return self._do("cudaFreeHost", (ptr,), lambda: self._release("host", ptr))

    def cudaStreamCreateWithFlags(self, flags):
        def create():
            handle = self._number()
            self.streams[handle] = []
            return handle

        return self._do("cudaStreamCreateWithFlags", (flags,), create)

    def cudaStreamDestroy(self, stream):
        assert self.fail or not self.streams[stream], "destroyed with work in the queue"
        return self._do("cudaStreamDestroy", (stream,), lambda: self._drop(self.streams, stream))

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        upload = kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._check_range("device" if upload else "host", dst, count)
        self._check_range("host" if upload else "device", src, count)
        work = lambda: ctypes.memmove(dst, src, count)  # noqa: E731
        return self._do("cudaMemcpyAsync", (dst, src, count, kind), lambda: self.put(stream, work))

    def cudaStreamSynchronize(self, stream):
        def wait():
            assert stream not in self.recordings, "synchronised while recording"
            while self.streams[stream]:
                self.streams[stream].pop(0)()

        return self._do("cudaStreamSynchronize", (stream,), wait)

    def cudaStreamBeginCapture(self, stream, mode):
        return self._do(
            "cudaStreamBeginCapture", (stream, mode), lambda: self._set(self.recordings, stream, [])
        )

    def cudaStreamEndCapture(self, stream):
        def end():
            graph = self._number()
            self.graphs[graph] = self.recordings.pop(stream)
            return graph

        return self._do("cudaStreamEndCapture", (stream,), end)

    def cudaGraphInstantiate(self, graph, flags):
        def instantiate():
            executable = self._number()
            self.graphs[executable] = list(self.graphs[graph])
            return executable

        return self._do("cudaGraphInstantiate", (graph, flags), instantiate)

    def cudaGraphLaunch(self, graphExec, stream):
        def launch():
            for work in self.graphs[graphExec]:
                self.put(stream, work)

        return self._do("cudaGraphLaunch", (graphExec, stream), launch)

    def cudaGraphExecDestroy(self, graphExec):
        return self._do(
            "cudaGraphExecDestroy", (graphExec,), lambda: self._drop(self.graphs, graphExec)
        )

    def cudaGraphDestroy(self, graph):
        return self._do("cudaGraphDestroy", (graph,), lambda: self._drop(self.graphs, graph))

    def cudaGetLastError(self):
        return self._do("cudaGetLastError", (), lambda: None)

    def put(self, stream, work):
        """Queue work, or record it while the stream is captured."""
        self.recordings.get(stream, self.streams[stream]).append(work)

    def is_clean(self):
        """Whether everything that was made was freed."""
        made = (*self.memory.values(), self.streams, self.recordings, self.graphs)
        return not any(made)

    def forget(self):
        """As the driver does when a process ends."""
        for table in (*self.memory.values(), self.streams, self.recordings, self.graphs):
            table.clear()

    def array(self, kind, address, shape, dtype):
        """The array at an address, which must be in one allocation."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._check_range(kind, address, count)
        return np.frombuffer((ctypes.c_uint8 * count).from_address(address), dtype).reshape(shape)

    def _do(self, name, arguments, act):
        self.calls.append((name, *arguments))
        if self.fail.get(name):
            gives = () if name.endswith(("Destroy", "Free", "FreeHost", "Synchronize")) else (None,)
            return (getattr(self.cudaError_t, self.fail[name]), *gives)
        result = act()
        return (SUCCESS,) if result is None else (SUCCESS, result)

    def _allocate(self, kind, size):
        buffer = ctypes.create_string_buffer(b"\xff" * size, size)  # NaN, as uninitialised memory
        address = ctypes.addressof(buffer)
        self.memory[kind][address] = buffer
        return address

    def _release(self, kind, address):
        buffer = self.memory[kind].pop(address)
        ctypes.memset(address, 0xFF, len(buffer))

    def _check_range(self, kind, address, count):
        inside = any(a <= address and address + count <= a + len(b)
                     for a, b in self.memory[kind].items())  # fmt: skip
        assert inside, f"{count} bytes at {address} are not {kind} memory"

    def _number(self):
        self._next += 1
        return self._next

    @staticmethod
    def _drop(table, key):
        del table[key]

    @staticmethod
    def _set(table, key, value):
        table[key] = value


class ILogger:
    """Base of loggers."""

    class Severity:
        INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2

    def __init__(self):
        pass

    def log(self, severity, msg):
        raise NotImplementedError


class IPluginRegistry:
    def __init__(self, loads):
        self._loads = loads

    def load_library(self, plugin_path):
        return object() if self._loads else None


class IRuntimeCache:
    """Of TensorRT-RTX: kernels as bytes."""

    def __init__(self, machine):
        self._machine, self._blob = machine, b""

    def deserialize(self, blob):
        fits = blob.startswith(b"kernels for Orin")
        self._blob = blob if fits else b""
        return fits

    def serialize(self):
        return self._blob or f"kernels for Orin {self._machine.compiled}".encode()


class IRuntimeConfig:
    """Of TensorRT-RTX."""

    def __init__(self, machine):
        self._machine = machine

    def create_runtime_cache(self):
        return IRuntimeCache(self._machine)

    def set_runtime_cache(self, cache):
        self._machine.compiled += not cache._blob  # kernels are compiled where none were kept
        return True


class IExecutionContext:
    """Queues a function of NumPy arrays in the place of kernels."""

    def __init__(self, engine):
        self._engine = engine
        self.shapes, self.addresses = {}, {}

    def set_input_shape(self, name, shape):
        self._engine.calls.append(("set_input_shape", name, tuple(shape)))
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        self.shapes[name] = tuple(shape)
        return all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name, memory):
        self._engine.calls.append(("set_tensor_address", name))
        self.addresses[name] = memory
        return True

    def infer_shapes(self):
        return [name for name in self._engine.names("inputs") if name not in self.shapes]

    def execute_async_v3(self, stream_handle):
        engine = self._engine
        engine.calls.append(("execute_async_v3",))
        unbound = set(engine.names("inputs") + engine.names("outputs")) - set(self.addresses)
        if unbound or self.infer_shapes() or engine.machine.fails_to_run:
            engine.machine.say("device memory of the context is exhausted")
            return False
        shapes, addresses, cuda = dict(self.shapes), dict(self.addresses), engine.machine.cuda

        def work():
            batch = next(iter(shapes.values()))[0]
            inputs = {
                name: cuda.array("device", addresses[name], shapes[name], engine.dtype(name)).copy()
                for name in shapes
            }
            for name, value in engine.machine.compute(inputs).items():
                shape = (batch, *engine.get_tensor_shape(name)[1:])
                cuda.array("device", addresses[name], shape, engine.dtype(name))[:] = value

        cuda.put(stream_handle, work)
        return True


class ICudaEngine:
    def __init__(self, machine, tensors):
        self.machine, self.calls = machine, machine.cuda.calls
        self._tensors = tensors

    @property
    def num_io_tensors(self):
        return len(self._all())

    def get_tensor_name(self, index):
        return self._all()[index]

    def get_tensor_mode(self, name):
        modes = TensorRtDouble.TensorIOMode
        return modes.INPUT if name in self._tensors["inputs"] else modes.OUTPUT

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self._entry(name)[1])

    def get_tensor_shape(self, name):
        return (-1, *self._entry(name)[0])

    def get_tensor_profile_shape(self, name, profile_index):
        assert profile_index == 0
        return [(batch, *self._entry(name)[0]) for batch in self._tensors["batch"]]

    def create_runtime_config(self):
        return IRuntimeConfig(self.machine)

    def create_execution_context(self, runtime_config=None):
        if self.machine.context_fits:
            return IExecutionContext(self)
        self.machine.say("Requested amount of GPU memory could not be allocated")
        return None

    def names(self, kind):
        return list(self._tensors[kind])

    def dtype(self, name):
        return {"FLOAT": np.float32, "INT64": np.int64}[self._entry(name)[1]]

    def _all(self):
        return self.names("inputs") + self.names("outputs")

    def _entry(self, name):
        return {**self._tensors["inputs"], **self._tensors["outputs"]}[name]


class Runtime:
    """Reads plans that `plan_bytes` wrote."""

    def __init__(self, logger):
        self.engine_host_code_allowed = False
        self.machine = TensorRtDouble.made[-1]
        self.machine.logger, self.machine.runtime = logger, self

    def deserialize_cuda_engine(self, serialized_engine):
        try:
            tensors = json.loads(serialized_engine)
        except ValueError:
            tensors = {"error": "Magic tag does not match"}
        if "error" in tensors:
            self.machine.say(tensors["error"])
            return None
        return ICudaEngine(self.machine, tensors)


class TensorRtDouble:
    """The module: names of TensorRT that sessions use.

    Args:
        cuda: the machine.
        compute: inputs by name -> outputs by name, what the plan computes.
    """

    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    ILogger = ILogger
    Runtime = Runtime
    made = []

    def __init__(self, cuda, compute=None, *, version="11.4.0.106"):
        self.cuda, self.compute, self.__version__ = cuda, compute, version
        self.context_fits, self.fails_to_run, self.library_loads = True, False, True
        self.compiled = 0
        self.made.append(self)

    def say(self, message):
        self.logger.log(ILogger.Severity.WARNING, "a warning that nobody reads")
        self.logger.log(ILogger.Severity.ERROR, message)

    def get_plugin_registry(self):
        return IPluginRegistry(self.library_loads)


def plan_bytes(config, *, batch=(1, 2, 4), without=(), image_size=None):
    """A plan that the double reads: the step's, or the decoder's where image_size is given."""
    image = [config.in_channels, config.input_size, config.input_size]
    inputs = {name: (image, "FLOAT") for name in ("latent", "noise", "history")}
    inputs |= {name: ([], "FLOAT") for name in ("timestep", "cfg_scale")}
    inputs |= {"label": ([], "INT64"), "coefficients": ([8], "FLOAT")}
    outputs = {name: (image, "FLOAT") for name in ("latent_out", "x_start")}
    if image_size is not None:
        inputs = {"latent": (image, "FLOAT")}
        outputs = {"image": (image_size, "FLOAT")}
    inputs = {name: value for name, value in inputs.items() if name not in without}
    return json.dumps({"inputs": inputs, "outputs": outputs, "batch": batch}).encode()
