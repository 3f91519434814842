"""Configuration -> PTX or cubin, cached by content.

Cache files are named by a hash of all sources, the definitions, the architecture and the compiler's
version, so that none is ever stale; they may be deleted at any time.

PTX carries the version of the language it is written in, and a driver refuses one that is newer
than itself. The compiler writes its own newest version, though the kernels use nothing newer than
the architecture itself: the version is set back to the least that knows the architecture, so that
every driver that knows the GPU takes it (JetPack 6, CUDA 12.6, knows up to 8.5).
Source: PTX ISA, "Release Notes" (versions and their targets).
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from pathlib import Path
from typing import Protocol

from vq4dit.atomic_file import atomic_path
from vq4dit.errors import OptionError

from .configuration import KernelConfiguration
from .nvcc import Nvcc
from .nvrtc import CompileError, load_nvrtc

#: Architectures with the version of PTX that their code is given; 8.0 is that of CUDA 12.0.
PTX_VERSIONS = {80: "8.0", 86: "8.0", 87: "8.0", 89: "8.0", 90: "8.0"} | {
    100: "8.6",
    110: "9.0",
    120: "8.7",
}

#: Architectures that kernels are compiled for, as compute capability times ten.
SMS = tuple(PTX_VERSIONS)

#: Environment variable that names another cache folder.
CACHE_VARIABLE = "VQ4DIT_CACHE"

_FOLDER = Path(__file__).parent


class Compiler(Protocol):
    """What turns sources into code: Nvrtc or Nvcc."""

    @property
    def version(self) -> str:
        """Name and version."""

    def ptx(self, main: str, sources: dict[str, str], sm: int | str, macros: dict[str, str]) -> str:
        """Compile to PTX."""

    def cubin(
        self, main: str, sources: dict[str, str], sm: int | str, macros: dict[str, str]
    ) -> bytes:
        """Compile to machine code."""


def compile_ptx(
    configuration: KernelConfiguration,
    sm: int,
    *,
    nvcc: str | None = None,
    cache_folder: Path | None = None,
) -> str:
    """Compile a kernel to PTX that runs on `sm` and newer.

    Args:
        configuration: the kernel; its entry point is `configuration.name`.
        sm: one of SMS; that of the kernel where it is made for one alone, whose code then runs on
            no newer GPU either.
        nvcc: path of an nvcc to use; None uses NVRTC.
        cache_folder: where results are kept; None uses VQ4DIT_CACHE or the user's cache folder.
    Raises:
        OptionError: sm is not one of SMS, or the kernel is not made for it.
        BackendUnavailable: there is no compiler.   CompileError: the compiler refused the source.
    """
    compiler = _compiler(nvcc)
    path = _cached(configuration, sm, compiler, cache_folder, "ptx")
    if path.is_file():
        return path.read_text()
    macros = configuration.macros()
    ptx = compiler.ptx(configuration.source, sources(), _target(configuration, sm), macros)
    text = set_ptx_version(ptx, PTX_VERSIONS[sm])
    _write(path, text.encode())
    return text


def compile_cubin(
    configuration: KernelConfiguration,
    sm: int,
    *,
    nvcc: str | None = None,
    cache_folder: Path | None = None,
) -> bytes:
    """Compile a kernel to machine code for `sm` alone; arguments and errors as in compile_ptx."""
    compiler = _compiler(nvcc)
    path = _cached(configuration, sm, compiler, cache_folder, "cubin")
    if path.is_file():
        return path.read_bytes()
    cubin = compiler.cubin(
        configuration.source, sources(), _target(configuration, sm), configuration.macros()
    )
    _write(path, cubin)
    return cubin


def set_ptx_version(ptx: str, version: str) -> str:
    """Put another language version into PTX; the text must not use anything newer.

    Raises:
        CompileError: the text has no version.
    """
    text, count = re.subn(r"^\.version\s+\S+$", f".version {version}", ptx, count=1, flags=re.M)
    if count != 1:
        raise CompileError("the compiler's PTX has no .version line")
    return text


@cache
def sources() -> dict[str, str]:
    """File name -> text of all CUDA sources."""
    files = sorted([*_FOLDER.glob("*.cu"), *_FOLDER.glob("*.cuh")])
    return {file.name: file.read_text() for file in files}


def default_cache_folder() -> Path:
    """VQ4DIT_CACHE, or vq4dit below XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vq4dit"


@cache
def _nvcc(path: str) -> Nvcc:
    """An nvcc, asked for its version once."""
    return Nvcc(path)


def _compiler(nvcc: str | None) -> Compiler:
    """The nvcc that was named, or NVRTC."""
    return load_nvrtc() if nvcc is None else _nvcc(nvcc)


def _target(configuration: KernelConfiguration, sm: int) -> int | str:
    """What the compiler calls the architecture: 90a is 90 with what no later one keeps.

    Source: PTX ISA, "Targets": features of architecture-specific targets are not portable.
    """
    return sm if configuration.only_sm is None else f"{sm}a"


def _cached(
    configuration: KernelConfiguration,
    sm: int,
    compiler: Compiler,
    cache_folder: Path | None,
    kind: str,
) -> Path:
    """The cache file of one result; OptionError for an architecture that does not do."""
    if sm not in PTX_VERSIONS:
        raise OptionError(f"sm is {sm}, needed one of {', '.join(map(str, SMS))}")
    if configuration.only_sm not in (None, sm):
        raise OptionError(
            f"kernel {configuration.kernel} is made for sm {configuration.only_sm} alone, found "
            f"{sm}; choose gemm"
        )
    digest = hashlib.sha256()
    parts = [compiler.version, kind, str(sm), PTX_VERSIONS[sm]]
    parts += [f"{name}={value}" for name, value in configuration.macros().items()]
    parts += [text for item in sources().items() for text in item]
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    folder = default_cache_folder() if cache_folder is None else cache_folder
    return folder / "cuda" / f"{configuration.name}_sm{sm}_{digest.hexdigest()[:32]}.{kind}"


def _write(path: Path, content: bytes) -> None:
    """Write a cache file whole; a folder that cannot be written costs only time later."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError:
        return
