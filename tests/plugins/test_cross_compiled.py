"""The kernels of another processor, compiled here and run under an emulator.

AArch64 needs a cross compiler and QEMU's user-mode emulator (Debian: g++-aarch64-linux-gnu,
qemu-user); without them the test skips.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import tolerances

pytestmark = pytest.mark.toolchain

ROOT = Path(__file__).parents[2]
CPU_FOLDER = ROOT / "plugins" / "cpu"
SOURCES = ("codebook_gemm.cc", "int8_gemm.cc", "layer.cc", "isa.cc", "kernels_scalar.cc")
FLAGS = "-std=c++17 -O2 -Wall -Wextra -Werror -ffp-contract=off -fno-math-errno".split()
TOLERANCE = {
    "fast": tolerances.FAST_RELATIVE_PER_ROW_SCALE,
    "exact": tolerances.FP32_RELATIVE,
    "int8": tolerances.INT8_RELATIVE,
}
NUM_CONFIGURATIONS = 6


def _driver(compiler: str, target: Path, *more: str) -> Path:
    sources = [Path(__file__).with_name("kernel_driver.cc"), *(CPU_FOLDER / s for s in SOURCES)]
    command = [compiler, *FLAGS, f"-I{CPU_FOLDER}", *more, *map(str, sources), "-o", str(target)]
    subprocess.run(command, check=True)
    return target


def _check(output: str, isas: set[str]) -> None:
    lines = [line.split() for line in output.splitlines()]
    assert {line[0] for line in lines} == isas
    assert len(lines) == NUM_CONFIGURATIONS * len(isas) * len(TOLERANCE)
    for line in lines:
        isa, accuracy, *configuration, error, alone, visible = line
        case = (isa, accuracy, configuration)
        assert float(error) <= TOLERANCE[accuracy], case
        assert alone == "1", case
        assert visible == "1", case


def test_neon_under_an_emulator(tmp_path):
    compiler = shutil.which("aarch64-linux-gnu-g++")
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if not compiler or not emulator:
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64")
    neon = str(CPU_FOLDER / "kernels_neon.cc")
    driver = _driver(compiler, tmp_path / "driver", "-static", "-DVQ4DIT_HAVE_NEON", neon)
    run = subprocess.run([emulator, driver], check=True, capture_output=True, text=True)
    _check(run.stdout, {"scalar", "neon"})
