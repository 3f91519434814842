"""Machine code of the cases' kernels, compiled beforehand for GPU machines without a compiler.

A folder of NAME_smSM.cubin. Where it lacks one, the kernel is compiled on the spot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from vq4dit.atomic_file import atomic_path
from vq4dit.plugins.cuda.compile import SMS, compile_cubin
from vq4dit.plugins.cuda.configuration import KernelConfiguration

from .cases import Case


def prepare_images(
    folder: Path, cases: Iterable[Case], sms: Iterable[int], say: Callable[[str], None]
) -> int:
    """Compile every kernel of the cases for every GPU into the folder; returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = tuple(cases)
    count = 0
    for sm in sms:
        kernels = {kernel.name: kernel for case in cases for kernel in case.kernels_on(sm)}
        for kernel in kernels.values():
            say(f"compiling {kernel.name} for sm_{sm}")
            with atomic_path(_path(folder, kernel, sm)) as temporary:
                temporary.write_bytes(compile_cubin(kernel, sm))
            count += 1
    return count


def load_image(folder: Path | None, kernel: KernelConfiguration, sm: int) -> bytes:
    """Machine code of a kernel for a GPU of compute capability `sm`.

    Raises:
        OptionError: no kernels are made for sm.   BackendUnavailable: it is not in the folder, and
            there is no compiler.
    """
    path = None if folder is None else _path(folder, kernel, sm)
    if path is not None and path.is_file():
        return path.read_bytes()
    return compile_cubin(kernel, nearest_sm(sm))


def nearest_sm(sm: int) -> int:
    """The architecture to compile for: itself, or the newest before it of the same major version.

    Such as 90 for H200 (9.0), 120 for 12.1.
    """
    known = [s for s in SMS if s <= sm and s // 10 == sm // 10 and s != 87]
    return sm if sm in SMS or not known else known[-1]


def _path(folder: Path, kernel: KernelConfiguration, sm: int) -> Path:
    return folder / f"{kernel.name}_sm{nearest_sm(sm)}.cubin"
