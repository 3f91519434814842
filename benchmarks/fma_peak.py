"""How many multiply-adds per second can one core do in float32? The roof of any dense GEMM here.

A loop of independent fused multiply-adds on the widest vectors, compiled for this machine. The
product tables do fewer operations than they are credited with (2 m n k), so that their share of
this peak may exceed 1.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

_LOOP = """
typedef float Vector __attribute__((vector_size(BYTES)));
float multiply_adds(long count) {
  Vector sums[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) sums[i] = (Vector){} + (float)i;
  const Vector x = (Vector){} + 0.5f, y = (Vector){} + 0.25f;
  for (long n = 0; n < count; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) {
      sums[i] = sums[i] * x + y;
      __asm__("" : "+WIDE"(sums[i]));
    }
  }
  Vector all = sums[0];
#pragma GCC unroll 12
  for (int i = 1; i < 12; ++i) all += sums[i];
  return all[0];
}
"""


def fma_peak_gflops() -> float | None:
    """Best of a few runs on one core, 10^9 operations per second (a multiply-add counts as two)."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    rates = []
    for size, register in ((64, "v"), (32, "x"), (16, "w")):  # AVX-512, AVX2, NEON
        library = _compiled(compiler, size, register)
        if library is not None:
            rates.append(_rate(library, size))
    return round(max(rates), 1) if rates else None


def _compiled(compiler: str, size: int, register: str) -> ctypes.CDLL | None:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "peak.c"), Path(folder, "peak.so")
        source.write_text(_LOOP.replace("BYTES", str(size)).replace("WIDE", register))
        command = [compiler, "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
        done = subprocess.run(
            [*command, str(source), "-o", str(target)], capture_output=True, check=False
        )
        return ctypes.CDLL(str(target)) if done.returncode == 0 else None


def _rate(library: ctypes.CDLL, size: int) -> float:
    library.multiply_adds.restype = ctypes.c_float
    library.multiply_adds.argtypes = [ctypes.c_long]
    count = 2_000_000
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        library.multiply_adds(count)
        seconds.append(time.perf_counter() - start)
    return 2 * 12 * (size // 4) * count / min(seconds) / 1e9


if __name__ == "__main__":
    print(f"{fma_peak_gflops()} GFLOP/s on one core")
