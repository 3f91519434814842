"""An emulator of GPU kernels in PTX, with checks that hardware does not make.

`run_kernel` executes a kernel's PTX on NumPy arrays and stops at the first thing that is undefined
or forbidden: races, accesses out of bounds or misaligned, reads of what was never written,
divergent barriers. README.md beside this file tells what is modelled and how far to trust it.
"""

from ptx.failures import FailureKind, KernelFailure, LaunchError, UnsupportedPtx
from ptx.launch import run_kernel
from ptx.parser import entry_names
from ptx.report import Loop, Report, Wavefronts

__all__ = [
    "FailureKind",
    "KernelFailure",
    "LaunchError",
    "Loop",
    "Report",
    "UnsupportedPtx",
    "Wavefronts",
    "entry_names",
    "run_kernel",
]
