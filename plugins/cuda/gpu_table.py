"""What the cost model knows of a GPU: one table, each figure with its source.

Peak figures at boost clock; what of them a kernel reaches is in efficiency.py. Figures whose source
says "assumed" were found nowhere: they are guesses of the right size, and a measurement replaces
them. Nothing here was measured by this project.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vq4dit.errors import OptionError

from .sm_limits import SmLimits, sm_limits

_A100 = "NVIDIA A100 datasheet and NVIDIA Ampere architecture whitepaper"
_H100 = "NVIDIA H100 datasheet (SXM5) and NVIDIA Hopper architecture whitepaper"
_ADA = "NVIDIA Ada GPU architecture whitepaper"
_ORIN = "NVIDIA Jetson AGX Orin Series technical brief (170 sparse INT8 TOPS of the GPU, 16 SMs)"
_MMA = "dense fp16 TFLOPS of the source, over SMs, clock and 2"
_ASSUMED = "assumed"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU.

    Args:
        name: key in the table; title: product name and variant.
        compute_capability: such as 80 for 8.0.
        num_sms: streaming multiprocessors.
        clock_hz: boost clock.
        mma_per_clock: fp16 multiply-adds (fp32 sums) per clock and SM by mma.sync, which our
            kernels use.
        library_mma_per_clock: the same by the widest path (wgmma, tcgen05), which cuBLAS uses.
        dram_bytes_per_second, memory_bytes: the memory.
        memory_latency_seconds: of one load that misses L2.
        l2_bytes, l2_bytes_per_clock: capacity; bytes from L2 to all SMs per clock.
        shared_bytes_per_clock, issue_per_clock: of one SM.
        launch_seconds: from the end of one kernel to the first instruction of the next, inside a
            CUDA graph.
        sources: field -> where the figure is from.
    """

    name: str
    title: str
    compute_capability: int
    num_sms: int
    clock_hz: float
    mma_per_clock: int
    library_mma_per_clock: int
    dram_bytes_per_second: float
    memory_bytes: int
    memory_latency_seconds: float
    l2_bytes: int
    l2_bytes_per_clock: int
    launch_seconds: float
    sources: Mapping[str, str]
    shared_bytes_per_clock: int = 128
    issue_per_clock: int = 4

    @property
    def limits(self) -> SmLimits:
        """What one SM holds."""
        return sm_limits(self.compute_capability)

    @property
    def library_flops(self) -> float:
        """Peak fp16 operations per second (a multiply-add is two)."""
        return 2 * self.library_mma_per_clock * self.num_sms * self.clock_hz

    @property
    def mma_flops(self) -> float:
        """Peak fp16 operations per second by mma.sync."""
        return 2 * self.mma_per_clock * self.num_sms * self.clock_hz

    @property
    def l2_bytes_per_second(self) -> float:
        """Bytes per second from L2 to all SMs."""
        return self.l2_bytes_per_clock * self.clock_hz


def find_gpu(name: str) -> Gpu:
    """The GPU of this name; case, blanks and underscores do not matter.

    Raises:
        OptionError: no such GPU in the table.
    """
    key = name.lower().replace("_", "-").replace(" ", "-")
    if key not in GPUS:
        raise OptionError(f"GPU {name!r} is not in the table; known are {', '.join(GPUS)}")
    return GPUS[key]


def gpu_of_device(name: str) -> Gpu:
    """The GPU that a driver calls by this name, such as "NVIDIA A100-SXM4-40GB".

    Raises:
        OptionError: none in the table; Orin modules all have the same name, so that theirs must be
            given as the table has it.
    """
    if name.lower() in GPUS:
        return GPUS[name.lower()]
    for pattern, key in _DEVICE_NAMES:
        if re.search(pattern, name):
            return GPUS[key]
    raise OptionError(
        f"the driver's GPU {name!r} is not in the table; name one of {', '.join(GPUS)}"
    )


def _sources(product: str, **others: str) -> dict[str, str]:
    """Sources of every field: the product's document unless said otherwise."""
    fields = {
        "num_sms": product,
        "clock_hz": product,
        "mma_per_clock": f"{_MMA} ({product})",
        "library_mma_per_clock": f"{_MMA} ({product})",
        "dram_bytes_per_second": product,
        "memory_bytes": product,
        "memory_latency_seconds": _ASSUMED,
        "l2_bytes": product,
        "l2_bytes_per_clock": "assumed: 64 bytes per clock and SM, the most that an SM takes",
        "shared_bytes_per_clock": "32 banks of 4 bytes (CUDA Programming Guide, shared memory)",
        "issue_per_clock": "four schedulers of one instruction (tuning guides of Ampere to Hopper)",
        "launch_seconds": _ASSUMED,
    }
    return fields | others


_MIB = 1 << 20
_GIB = 1 << 30

_A100_40 = Gpu(
    name="a100-40",
    title="A100 SXM4 40 GB",
    compute_capability=80,
    num_sms=108,
    clock_hz=1.41e9,
    mma_per_clock=1024,
    library_mma_per_clock=1024,
    dram_bytes_per_second=1555e9,
    memory_bytes=40 * _GIB,
    memory_latency_seconds=0.4e-6,
    l2_bytes=40 * _MIB,
    l2_bytes_per_clock=5120,
    launch_seconds=2e-6,
    sources=_sources(_A100, l2_bytes_per_clock="Ampere whitepaper: 5120 bytes per clock, reads"),
)

_A100_80 = replace(
    _A100_40,
    name="a100-80",
    title="A100 SXM4 80 GB",
    dram_bytes_per_second=2039e9,
    memory_bytes=80 * _GIB,
)

_ORIN_AGX = Gpu(
    name="orin-agx",
    title="Jetson AGX Orin 64 GB, MAXN",
    compute_capability=87,
    num_sms=16,
    clock_hz=1.3e9,
    mma_per_clock=1024,
    library_mma_per_clock=1024,
    dram_bytes_per_second=204.8e9,
    memory_bytes=64 * _GIB,
    memory_latency_seconds=0.7e-6,
    l2_bytes=4 * _MIB,
    l2_bytes_per_clock=1024,
    launch_seconds=5e-6,
    sources=_sources(_ORIN),
)

_ORIN_NX = replace(
    _ORIN_AGX,
    name="orin-nx",
    title="Jetson Orin NX 16 GB, 25 W",
    num_sms=8,
    clock_hz=0.918e9,
    dram_bytes_per_second=102.4e9,
    memory_bytes=16 * _GIB,
    l2_bytes_per_clock=512,
    sources=_sources(
        "NVIDIA Jetson Orin NX Series datasheet (1024 CUDA cores, 918 MHz, 102.4 GB/s)",
        l2_bytes=_ASSUMED,
    ),
)

_ORIN_NANO = replace(
    _ORIN_NX,
    name="orin-nano",
    title="Jetson Orin Nano 8 GB Super, 25 W",
    clock_hz=1.02e9,
    dram_bytes_per_second=102e9,
    memory_bytes=8 * _GIB,
    sources=_sources(
        "NVIDIA Jetson Orin Nano Super datasheet (1024 CUDA cores, 1020 MHz, 102 GB/s, 67 "
        "sparse INT8 TOPS)",
        l2_bytes=_ASSUMED,
    ),
)

_H100_SXM = Gpu(
    name="h100",
    title="H100 SXM5 80 GB",
    compute_capability=90,
    num_sms=132,
    clock_hz=1.83e9,
    mma_per_clock=1270,
    library_mma_per_clock=2048,
    dram_bytes_per_second=3350e9,
    memory_bytes=80 * _GIB,
    memory_latency_seconds=0.45e-6,
    l2_bytes=50 * _MIB,
    l2_bytes_per_clock=5120,
    launch_seconds=2e-6,
    sources=_sources(
        _H100,
        clock_hz="989 dense fp16 TFLOPS of the datasheet over 132 SMs and 2048 multiply-adds",
        mma_per_clock="62 % of wgmma's peak by mma.sync (Luo et al., arXiv 2402.13499)",
        l2_bytes_per_clock="assumed: as A100",
    ),
)

_H200_SXM = replace(
    _H100_SXM,
    name="h200",
    title="H200 SXM5 141 GB",
    dram_bytes_per_second=4800e9,
    memory_bytes=141 * 10**9,
    sources=dict(_H100_SXM.sources)
    | {
        "dram_bytes_per_second": "NVIDIA H200 datasheet (4.8 TB/s)",
        "memory_bytes": "NVIDIA H200 datasheet (141 GB)",
    },
)

_L4 = Gpu(
    name="l4",
    title="L4 24 GB (72 W: the boost clock is not sustained under a full load)",
    compute_capability=89,
    num_sms=58,
    clock_hz=2.04e9,
    mma_per_clock=512,
    library_mma_per_clock=512,
    dram_bytes_per_second=300e9,
    memory_bytes=24 * _GIB,
    memory_latency_seconds=0.5e-6,
    l2_bytes=48 * _MIB,
    l2_bytes_per_clock=1365,
    launch_seconds=2e-6,
    sources=_sources(
        "NVIDIA L4 datasheet (7424 CUDA cores, 242 sparse fp16 TFLOPS, 300 GB/s)",
        l2_bytes_per_clock="assumed: as RTX 4090 per byte of capacity",
    ),
)

_RTX_4090 = Gpu(
    name="rtx-4090",
    title="GeForce RTX 4090 24 GB",
    compute_capability=89,
    num_sms=128,
    clock_hz=2.52e9,
    mma_per_clock=256,
    library_mma_per_clock=256,
    dram_bytes_per_second=1008e9,
    memory_bytes=24 * _GIB,
    memory_latency_seconds=0.5e-6,
    l2_bytes=72 * _MIB,
    l2_bytes_per_clock=2048,
    launch_seconds=2e-6,
    sources=_sources(
        f"{_ADA} (165.2 dense fp16 TFLOPS with fp32 sums)",
        l2_bytes_per_clock="about 5 TB/s measured by Chips and Cheese, 2 Nov 2022",
    ),
)

_THOR = Gpu(
    name="thor",
    title="Jetson AGX Thor T5000 128 GB",
    compute_capability=110,
    num_sms=20,
    clock_hz=1.57e9,
    mma_per_clock=1024,
    library_mma_per_clock=4096,
    dram_bytes_per_second=273e9,
    memory_bytes=128 * _GIB,
    memory_latency_seconds=0.7e-6,
    l2_bytes=32 * _MIB,
    l2_bytes_per_clock=1280,
    launch_seconds=4e-6,
    sources=_sources(
        "NVIDIA Jetson Thor datasheet (2560 CUDA cores, 2070 sparse FP4 TFLOPS, 273 GB/s)",
        num_sms="device query in NVIDIA developer forum thread 356355",
        l2_bytes="device query in NVIDIA developer forum thread 356355",
        clock_hz="2070 sparse FP4 TFLOPS over 20 SMs and 65,536 operations per clock",
        mma_per_clock="assumed: mma.sync at the rate of compute capability 8.0",
    ),
)

#: Name -> GPU, in the order of the tables that are printed.
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _A100_40, _A100_80, _ORIN_AGX, _ORIN_NX, _ORIN_NANO, _H100_SXM, _H200_SXM, _L4, _RTX_4090,
        _THOR,
    )
}  # fmt: skip

#: Pattern of a driver's name for a device -> key.
_DEVICE_NAMES = (
    (r"A100.*40GB", "a100-40"),
    (r"A100.*80GB", "a100-80"),
    (r"H100.*80GB HBM3", "h100"),
    (r"H200", "h200"),
    (r"\bL4\b", "l4"),
    (r"RTX 4090(?! (Laptop|D))", "rtx-4090"),
    (r"Thor", "thor"),
)
