"""Where the compiled CPU library is. Imports neither NumPy nor ONNX Runtime.

The library is made from `plugins/cpu` when vq4dit is installed with a C++ compiler at hand. It
registers the ops with an ONNX Runtime session; the session keys must be set before:

    options.add_session_config_entry("vq4dit.accuracy", "exact")  # default "fast"
    options.register_custom_ops_library(str(ort_library_path()))
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from vq4dit.errors import BackendUnavailable

#: Environment variable that names another build of the library.
LIBRARY_VARIABLE = "VQ4DIT_ORT_LIBRARY"

#: Session keys that the library reads when it is registered.
ACCURACY_KEY = "vq4dit.accuracy"
ISA_KEY = "vq4dit.isa"

_LIBRARY_NAMES = ("libvq4dit_ort.so", "libvq4dit_ort.dylib", "vq4dit_ort.dll")


def ort_library_path() -> Path | None:
    """The custom-op library for ONNX Runtime, or None where it was not built.

    Raises:
        BackendUnavailable: VQ4DIT_ORT_LIBRARY names a file that does not exist.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        path = Path(named).resolve()
        if not path.is_file():
            raise BackendUnavailable(
                f"{LIBRARY_VARIABLE} names {named}, which is not a file; build it with "
                "`cmake --build`, or unset the variable"
            )
        return path
    # An editable install has two entries: the sources, and the folder CMake installs into.
    from vq4dit import plugins

    for folder in plugins.__path__:
        for name in _LIBRARY_NAMES:
            path = Path(folder) / name
            if path.is_file():
                return path
    return None


def available_isas() -> tuple[str, ...]:
    """Instruction sets that the library can use on this machine, best last; () without library."""
    path = ort_library_path()
    if path is None:
        return ()
    library = ctypes.CDLL(str(path))
    library.vq4dit_isas.restype = ctypes.c_char_p
    return tuple(library.vq4dit_isas().decode().split(","))
