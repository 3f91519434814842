"""How much memory a builder will need, and a refusal before it starts where that is not there."""

from __future__ import annotations

from pathlib import Path

from vq4dit.errors import BackendUnavailable
from vq4dit.runtime.gpu import Gpu

#: Host memory of a builder: the process with its libraries, and this many copies of the weights.
#: Peaks of TensorRT-RTX 1.7: 0.32 GiB for 3 MB of weights, 1.1 for 0.18 GB, 4.3 for 1.35 GB. Those
#: of TensorRT itself are not measured.
BASE_BYTES = 600 << 20
WEIGHT_COPIES = 3.5

#: On a GPU the builder times kernels with one copy of the weights and the scratch memory.
GPU_BASE_BYTES = 600 << 20
DEFAULT_WORKSPACE_BYTES = 1 << 30

_MEMINFO = Path("/proc/meminfo")


def builder_host_bytes(weight_bytes: int) -> int:
    """Host memory that building a model with so many bytes of weights takes at its peak."""
    return BASE_BYTES + int(WEIGHT_COPIES * weight_bytes)


def builder_gpu_bytes(weight_bytes: int, workspace_bytes: int, decoded_bytes: int = 0) -> int:
    """GPU memory likewise; decoded weights live one at a time."""
    return GPU_BASE_BYTES + weight_bytes + workspace_bytes + decoded_bytes


def available_host_bytes() -> int | None:
    """Memory that the system can give without swapping, None where it does not tell."""
    if not _MEMINFO.is_file():
        return None
    for line in _MEMINFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return None


def require_builder_memory(
    weight_bytes: int, *, gpu: Gpu | None, workspace_bytes: int, decoded_bytes: int = 0
) -> None:
    """Refuse a build that will not fit.

    Args:
        weight_bytes: bytes of the ONNX model and its data.
        gpu: where kernels are timed, None for a build on the CPU alone.
        workspace_bytes: scratch memory that one layer may use.
        decoded_bytes: the largest weight that a step decodes to memory.
    Raises:
        BackendUnavailable: naming what is needed, what is there, and what to do.
    """
    needed, remedy = builder_host_bytes(weight_bytes), "close other programs or add swap space"
    if gpu is not None:
        on_gpu = builder_gpu_bytes(weight_bytes, workspace_bytes, decoded_bytes)
        if gpu.is_integrated:
            needed += on_gpu  # one memory for both
        elif on_gpu > gpu.memory_bytes:
            raise BackendUnavailable(
                f"building needs about {_gib(on_gpu)} of GPU memory, {gpu.name} has "
                f"{_gib(gpu.memory_bytes)}; build on a larger GPU of the same kind"
            )
    found = available_host_bytes()
    if found is not None and found < needed:
        raise BackendUnavailable(
            f"building needs about {_gib(needed)} of memory, {_gib(found)} are free; {remedy}, "
            "or build on another machine with the same GPU and copy the engine directory"
        )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
