"""The CUDA toolkit's compiler as a program, for machines that have a toolkit but no NVRTC."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vq4dit.errors import BackendUnavailable

from .nvrtc import CompileError


class Nvcc:
    """An nvcc.

    Args:
        path: the program.
    Raises:
        BackendUnavailable: it does not run.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BackendUnavailable(f"cannot run nvcc at {path}: {error}") from None
        self.version = f"nvcc {told.stdout.strip().splitlines()[-1]}"

    def ptx(
        self, main: str, sources: Mapping[str, str], sm: int | str, macros: Mapping[str, str]
    ) -> str:
        """PTX for GPUs of compute capability `sm` and newer; arguments as in Nvrtc.cubin."""
        return self._compile(main, sources, f"compute_{sm}", macros, "-ptx").decode()

    def cubin(
        self, main: str, sources: Mapping[str, str], sm: int | str, macros: Mapping[str, str]
    ) -> bytes:
        """Machine code for one GPU architecture; arguments as in Nvrtc.cubin."""
        return self._compile(main, sources, f"sm_{sm}", macros, "-cubin")

    def _compile(
        self,
        main: str,
        sources: Mapping[str, str],
        architecture: str,
        macros: Mapping[str, str],
        kind: str,
    ) -> bytes:
        """Compile in a temporary folder."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in sources.items():
                (Path(folder) / name).write_text(text)
            target = Path(folder) / "kernel"
            defines = [f"-D{key}={value}" for key, value in macros.items()]
            command = [self._path, "-O3", "-std=c++17", f"-arch={architecture}", *defines, kind]
            done = subprocess.run(
                [*command, str(Path(folder) / main), "-o", str(target)],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise CompileError(f"{main} for {architecture}: {done.stderr.strip()}")
            return target.read_bytes()
