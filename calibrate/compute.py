"""Where a calibration computes and how exactly: device, threads, autocast, repeatable kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

from vq4dit.errors import BackendUnavailable, OptionError

#: "auto": CUDA if torch sees it.
AUTO = "auto"

_AUTOCAST_DTYPES = {"bf16": torch.bfloat16}

#: cuBLAS repeats its results only with workspaces of a fixed size; read when CUDA starts. Source:
#: the notes of torch.use_deterministic_algorithms.
_CUBLAS_VARIABLE, _CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Device, threads and precision of a calibration; plain values, so that it can be sent around.

    `device` is "cpu", "cuda" or "cuda:N". `autocast` "bf16" runs the model's own matrix products in
    bfloat16; K-Means, error feedback, losses and optimizers stay in float32. None: all in float32.
    """

    device: str = "cpu"
    autocast: str | None = None
    threads: int = field(default_factory=torch.get_num_threads)

    def __post_init__(self) -> None:
        """Refuse what torch does not know, or does not have here."""
        if self.autocast is not None and self.autocast not in _AUTOCAST_DTYPES:
            raise OptionError(
                f"autocast {self.autocast!r} is unknown; needed one of {tuple(_AUTOCAST_DTYPES)}"
            )
        kind, _, number = self.device.partition(":")
        if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
            raise OptionError(f"device {self.device!r} is unknown; needed cpu, cuda or cuda:N")
        if self.uses_cuda and int(number or 0) >= torch.cuda.device_count():
            raise BackendUnavailable(
                f"device {self.device!r} is not available: torch {torch.__version__} sees "
                f"{torch.cuda.device_count()} CUDA devices here; install a CUDA build of torch "
                "and NVIDIA's driver, or calibrate with --device cpu"
            )

    @property
    def uses_cuda(self) -> bool:
        """Whether it computes on an NVIDIA GPU."""
        return self.device.startswith("cuda")

    def forward(self) -> AbstractContextManager[object]:
        """Context for running the model: autocast where it is asked for."""
        kind = self.device.partition(":")[0]
        dtype = None if self.autocast is None else _AUTOCAST_DTYPES[self.autocast]
        return torch.autocast(kind, dtype=dtype, enabled=dtype is not None)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Context of a stage or task: the same threads, and on CUDA the same kernels, everywhere.

        On CUDA: only repeatable kernels, and float32 without TF32. Restores what was set before.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with _repeatable_cuda() if self.uses_cuda else nullcontext():
                yield
        finally:
            torch.set_num_threads(threads)


def compute_for(device: str = AUTO, autocast: str | None = None) -> Compute:
    """The Compute of a device's name; "auto" is CUDA if torch sees it, else the CPU.

    Raises:
        OptionError: an unknown name.   BackendUnavailable: the device is not there.
    """
    if device == AUTO:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Compute(device=device, autocast=autocast)


@contextmanager
def _repeatable_cuda() -> Iterator[None]:
    """Deterministic kernels and full float32 on CUDA; both are global settings of torch."""
    os.environ.setdefault(_CUBLAS_VARIABLE, _CUBLAS_WORKSPACE)
    deterministic = torch.are_deterministic_algorithms_enabled()
    precision = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions
