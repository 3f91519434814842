"""What this machine can do at best: multiply-adds and memory traffic, measured when asked.

The arithmetic peak is the best float32 matrix product of ONNX Runtime with the engine's threads,
the traffic peak the best copy of a buffer far larger than the caches. Both are what good code gets,
not data-sheet figures; a kernel that does fewer operations than it is credited with may exceed the
first, one whose data are in the caches the second.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .onnx_wire import WireNode, model_bytes

_MATRIX_SIZE = 1024
_COPIED_BYTES = 128 << 20
_RUNS = 7


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Best rates with `threads` threads, in 10^9 a second; bytes read and bytes written count."""

    threads: int
    gflops: float
    gbytes_per_s: float

    @property
    def ridge(self) -> float:
        """Operations per byte from which on arithmetic is the limit."""
        return self.gflops / self.gbytes_per_s

    def attainable_gflops(self, intensity: float) -> float:
        """The roof over a kernel of `intensity` operations per byte (Williams et al. 2009)."""
        return min(self.gflops, intensity * self.gbytes_per_s)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "ridge_flops_per_byte": self.ridge}


def measure_peaks(threads: int | None) -> Peaks:
    """Measure both peaks; takes about a second. threads: None for all that may be used."""
    used = threads or usable_processors()
    return Peaks(threads=used, gflops=_product_rate(used), gbytes_per_s=_copy_rate(used))


def usable_processors() -> int:
    """Processors that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _product_rate(threads: int) -> float:
    import onnxruntime

    shape = (_MATRIX_SIZE, _MATRIX_SIZE)
    model = model_bytes(
        [WireNode(op="MatMul", inputs=["a", "b"], outputs=["c"])],
        inputs={"a": shape, "b": shape},
        outputs={"c": shape},
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(shape, np.float32) for name in "ab"}
    return 2 * _MATRIX_SIZE**3 / _best_seconds(lambda: session.run(None, feeds)) / 1e9


def _copy_rate(threads: int) -> float:
    source = np.ones(_COPIED_BYTES // 4, np.float32)
    target = np.zeros_like(source)
    pairs = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best_seconds(lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs)))
    return 2 * source.nbytes / seconds / 1e9


def _best_seconds(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
