"""NVIDIA's run-time compiler as a library: CUDA C++ text to PTX or cubin, without a GPU or driver.

Found in the PyPI packages nvidia-cuda-nvrtc*, or wherever the system's loader finds it. Its second
library (libnvrtc-builtins) is loaded beforehand from the same folder, so that LD_LIBRARY_PATH need
not be set.
Source: NVIDIA, NVRTC documentation, "Basic Usage".
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from vq4dit.errors import BackendUnavailable, Vq4ditError


class CompileError(Vq4ditError, RuntimeError):
    """The CUDA compiler refused a kernel; its messages are in the text."""


class Nvrtc:
    """The loaded compiler.

    Args:
        path: the library's file, or a name for the system's loader.
    Raises:
        BackendUnavailable: it cannot be loaded.
    """

    def __init__(self, path: str) -> None:
        for builtins in sorted(Path(path).parent.glob("libnvrtc-builtins.so*")):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise BackendUnavailable(f"cannot load the CUDA compiler {path}: {error}") from None

    @property
    def version(self) -> str:
        """Such as "nvrtc 13.5"."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return f"nvrtc {major.value}.{minor.value}"

    def ptx(
        self, main: str, sources: Mapping[str, str], sm: int | str, macros: Mapping[str, str]
    ) -> str:
        """PTX for GPUs of compute capability `sm` and newer; arguments as for `cubin`."""
        return self._compile(main, sources, f"compute_{sm}", macros, "PTX").rstrip(b"\0").decode()

    def cubin(
        self, main: str, sources: Mapping[str, str], sm: int | str, macros: Mapping[str, str]
    ) -> bytes:
        """Machine code for one GPU architecture.

        Args:
            main: which of the sources to compile.
            sources: file name -> text, everything that is included.
            sm: compute capability times ten, such as 87, or a name such as 90a.
            macros: preprocessor definitions.
        Raises:
            CompileError: the compiler refused it.
        """
        return self._compile(main, sources, f"sm_{sm}", macros, "CUBIN")

    def _compile(
        self,
        main: str,
        sources: Mapping[str, str],
        architecture: str,
        macros: Mapping[str, str],
        result: str,
    ) -> bytes:
        """Compile and fetch one of NVRTC's results, "PTX" or "CUBIN"."""
        options = [
            f"-arch={architecture}",
            "-std=c++17",
            *(f"-D{k}={v}" for k, v in macros.items()),
        ]
        program = self._program(main, sources)
        try:
            status = self._library.nvrtcCompileProgram(program, len(options), _strings(options))
            if status:
                log = self._fetch("ProgramLog", program).rstrip(b"\0").decode(errors="replace")
                raise CompileError(f"{main} for {architecture}: {log.strip() or f'code {status}'}")
            return self._fetch(result, program)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _program(self, main: str, sources: Mapping[str, str]) -> ctypes.c_void_p:
        """A program of `main`, the other sources as its headers."""
        headers = {name: text for name, text in sources.items() if name != main}
        program = ctypes.c_void_p()
        self._library.nvrtcCreateProgram(
            ctypes.byref(program),
            sources[main].encode(),
            main.encode(),
            len(headers),
            _strings(list(headers.values())),
            _strings(list(headers)),
        )
        return program

    def _fetch(self, what: str, program: ctypes.c_void_p) -> bytes:
        """What nvrtcGet<what> gives."""
        size = ctypes.c_size_t()
        getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self._library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw


@cache
def load_nvrtc() -> Nvrtc:
    """The compiler from the PyPI package, else from the system.

    Raises:
        BackendUnavailable: there is none.
    """
    path = _packaged_library() or ctypes.util.find_library("nvrtc")
    if path is None:
        raise BackendUnavailable(
            "no CUDA compiler: neither the package nvidia-cuda-nvrtc nor a system library nvrtc "
            "is installed; install it with `pip install 'vq4dit[cuda]'`, or install the CUDA "
            "toolkit and give nvcc"
        )
    return Nvrtc(path)


def _packaged_library() -> str | None:
    """libnvrtc of the newest nvidia-cuda-nvrtc* package in this environment."""
    spec = find_spec("nvidia")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    found = [file for folder in folders for file in Path(folder).glob("*/lib/libnvrtc.so.*")]
    found = [file for file in found if ".alt" not in file.name]
    return str(max(found, key=lambda file: file.parent.parent.name)) if found else None


def _strings(texts: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    """A C array of strings."""
    return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))
