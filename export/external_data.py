"""One external data file beside an ONNX model: tensors appended one by one, aligned.

Only the tensor being written is in memory, so a model of any size streams through. ONNX Runtime and
TensorRT map the file, pages are read when they are used. The bytes depend on the tensors and their
order alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from vq4dit.atomic_file import atomic_path

#: Tensors of at least this many bytes start at a page, so that mapping one touches no other.
PAGE_BYTES = 4096

#: Alignment of the small ones: a cache line, and the widest vector register of today's CPUs.
SMALL_ALIGNMENT_BYTES = 64


class ExternalData:
    """Writer of the external data file; a context manager that leaves nothing behind on an error.

    The file has its final name only after `commit`.
    """

    def __init__(self, directory: Path, file_name: str) -> None:
        self.path = directory / file_name
        self._staging = directory / f".{file_name}.{os.getpid()}.part"
        self._file = self._staging.open("wb")

    def __enter__(self) -> ExternalData:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._staging.unlink(missing_ok=True)

    @property
    def num_bytes(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def add(self, name: str, array: NDArray[Any]) -> onnx.TensorProto:
        """Append a tensor; returns the initializer that refers to it.

        Raises:
            OSError: the disk is full or the file cannot be written.
        """
        contiguous = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        alignment = PAGE_BYTES if contiguous.nbytes >= PAGE_BYTES else SMALL_ALIGNMENT_BYTES
        self._file.write(bytes(-self._file.tell() % alignment))
        offset = self._file.tell()
        self._file.write(contiguous.reshape(-1).view(np.uint8).data)  # NumPy exports no bfloat16
        tensor = onnx.TensorProto(
            name=name,
            data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        for key, value in (
            ("location", self.path.name),
            ("offset", offset),
            ("length", contiguous.nbytes),
        ):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def commit(self) -> None:
        """Give the file its final name, on the disk; without any tensor there is no file."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self.num_bytes:
            os.replace(self._staging, self.path)
        else:
            self.path.unlink(missing_ok=True)


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Serialize a model to `path`: to a temporary file, then renamed; the same bytes each time."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
