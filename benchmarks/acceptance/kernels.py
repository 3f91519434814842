"""Stage A: one case on the GPU: errors and times of all its kernels, and of cuBLAS.

Weights are as cold as in a model: every launch of a timed graph reads another copy, and the copies
together are larger than any L2 cache.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from vq4dit.errors import BackendUnavailable
from vq4dit.plugins.cuda.configuration import KernelConfiguration
from vq4dit.plugins.cuda.launch import launch_geometry
from vq4dit.plugins.cuda.parameters import SCALAR, kernel_parameters

from .cases import Case
from .cublas import Cublas
from .cuda_driver import Buffer, ContextLost, Device
from .images import load_image
from .layer import Layer, random_layer, to_bits

#: Largest relative error that is accepted: rounding of the output to 11 or 8 bits, in rounded sums.
ERROR_LIMITS = {"float16": 1e-3, "bfloat16": 8e-3}

#: Bytes of all copies of the weights together: twice the largest L2 cache in use (RTX 4090: 72 MB).
_COLD_BYTES = 160 << 20
_MAX_COPIES = 64
_LAUNCHES = 64  # of one graph
_REPEATS = 9

Row = dict[str, Any]


def measure_case(case: Case, device: Device, images: Path | None) -> list[Row]:
    """One row per kernel, the baseline first where cuBLAS is there.

    Raises:
        ContextLost: a kernel crashed; the message begins with its name.
    """
    layer = random_layer(case)
    rows = _baseline_rows(case, device)
    with _Inputs(device, layer) as inputs:
        for kernel in case.kernels_on(device.compute_capability):
            rows.append(_kernel_row(case, device, layer, inputs, kernel, images))
    return rows


class _Inputs:
    """A layer's inputs on the device; copies of the assignments, one for each launch in turn."""

    def __init__(self, device: Device, layer: Layer) -> None:
        self._buffers = {name: device.upload(a) for name, a in layer.inputs.items()}
        assignments = layer.inputs["assignments"]
        self._copies = [
            device.upload(assignments) for _ in range(_num_copies(assignments.nbytes) - 1)
        ]
        dtype = np.float32 if layer.is_output_float32 else np.uint16
        self.output = device.allocate(int(np.prod(layer.output_shape)) * np.dtype(dtype).itemsize)
        self.output_dtype = dtype

    def __enter__(self) -> _Inputs:
        return self

    def __exit__(self, *_: object) -> None:
        for buffer in (*self._buffers.values(), *self._copies, self.output):
            buffer.free()

    def at(self, launch: int) -> dict[str, Buffer]:
        """Inputs of one launch."""
        copies = [self._buffers["assignments"], *self._copies]
        return self._buffers | {"assignments": copies[launch % len(copies)]}


def _kernel_row(
    case: Case,
    device: Device,
    layer: Layer,
    inputs: _Inputs,
    configuration: KernelConfiguration,
    images: Path | None,
) -> Row:
    """Check and time one kernel."""
    geometry = launch_geometry(
        configuration, m=max(case.m, 1), n=case.n, k=case.k, row_groups=case.row_groups
    )
    row = _row(case, device, configuration.name)
    try:
        image = load_image(images, configuration, device.compute_capability)
        kernel = device.kernel(image, configuration.name, shared_bytes=geometry.shared_bytes)

        def launch(number: int) -> None:
            arguments = _arguments(case, configuration, inputs, number)
            kernel.launch(geometry.grid, geometry.block, arguments)

        inputs.output.fill(0xFF)  # NaN in every type
        launch(0)
        y = inputs.output.download(layer.output_shape, inputs.output_dtype)
        error = layer.relative_error(y, case.dtype)
        row["relative_error"] = error if np.isfinite(error) else None
        row["ok"] = error <= ERROR_LIMITS[case.dtype]
        row["microseconds"] = _time(device, launch)
    except ContextLost as error:
        raise ContextLost(f"{configuration.name}: {error}") from None
    except BackendUnavailable as error:
        row |= {"ok": False, "error": str(error)}
    return row


def _baseline_rows(case: Case, device: Device) -> list[Row]:
    """cuBLAS on the dense weight; none for CodebookDecode, an error where it does not work."""
    if case.m == 0:
        return []
    row = _row(case, device, "cublas")
    try:
        row["microseconds"] = _time_cublas(case, device)
    except BackendUnavailable as error:
        row["error"] = str(error)
    return [row]


def _time_cublas(case: Case, device: Device) -> float:
    """Microseconds of y = x W^T with a dense weight of the case's shape and type."""
    cublas = Cublas(device)
    rng = np.random.default_rng(0)
    weight = to_bits(rng.standard_normal((case.n, case.k), np.float32), case.dtype)
    x = device.upload(to_bits(rng.standard_normal((case.m, case.k), np.float32), case.dtype))
    copies = [device.upload(weight) for _ in range(_num_copies(weight.nbytes))]
    y = device.allocate(2 * case.m * case.n)

    def launch(number: int) -> None:
        weight = copies[number % len(copies)]
        cublas.matmul(x, weight, y, m=case.m, n=case.n, k=case.k, dtype=case.dtype)

    try:
        return _time(device, launch)
    finally:
        for owned in (x, y, *copies):
            owned.free()
        cublas.close()


def _time(device: Device, launch: Callable[[int], None]) -> float:
    """Median microseconds of one launch, in a graph of many."""

    def launches() -> None:
        for number in range(_LAUNCHES):
            launch(number)

    launch(0)  # what is loaded on first use is loaded now
    device.synchronize()
    graph = device.capture(launches)
    times = []
    graph.launch()
    for _ in range(_REPEATS):
        before, after = device.event(), device.event()
        before.record()
        graph.launch()
        after.record()
        times.append(after.microseconds_since(before) / _LAUNCHES)
    graph.free()
    return round(median(times), 3)


def _arguments(
    case: Case, configuration: KernelConfiguration, inputs: _Inputs, number: int
) -> list[Buffer | int]:
    """The kernel's arguments in its own order."""
    sizes = {
        "m": case.m,
        "out_features": case.n,
        "in_features": case.k,
        "row_groups": case.row_groups,
        "sequence": case.sequence,
    }
    buffers = inputs.at(number)
    return [
        sizes[p.name] if p.kind == SCALAR else buffers.get(p.name, inputs.output)
        for p in kernel_parameters(configuration)
    ]


def _row(case: Case, device: Device, kernel: str) -> Row:
    """What the cost model reads (gpu, kernel, m, n, k, dtype, microseconds), and more."""
    return {
        "case": case.name, "gpu": device.name, "kernel": kernel, "m": case.m, "n": case.n,
        "k": case.k, "dtype": case.dtype, "bits": case.bits, "row_groups": case.row_groups,
        "activation": case.activation, "op": case.op, "microseconds": None, "ok": True,
    }  # fmt: skip


def _num_copies(num_bytes: int) -> int:
    return int(np.clip(-(-_COLD_BYTES // max(num_bytes, 1)), 1, _MAX_COPIES))
