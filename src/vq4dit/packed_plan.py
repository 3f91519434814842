"""A TensorRT plan in less room: a ZIP archive whose members, one after the other, are the plan.

TensorRT-RTX writes the source text of every fused kernel into the plan, about 140 KB each, of which
128 KB are one library, the same every time. Text is deflated; all else is stored, since packed
indices do not shrink, and is read at the speed of memory. `unzip -p step.plan.zip > step.plan`
gives the plan back.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from .atomic_file import atomic_path
from .errors import ArtifactError

#: What the file name of a packed plan ends with.
PACKED_SUFFIX = ".zip"

#: A plan is packed where at least this share of it, and one chunk, is text.
_WORTHWHILE_SHARE = 0.05

#: Bytes that are judged together, and the share of printable ones that makes them text. Weights,
#: packed or not, have about 0.4.
_CHUNK_BYTES = 1 << 16
_TEXT_SHARE = 0.9
_PRINTABLE = b"\t\n" + bytes(range(0x20, 0x7F))

#: A member is no longer, so that packing and unpacking hold little beside the plan.
_MEMBER_BYTES = 256 * _CHUNK_BYTES

#: A plan is at most this many times as long as its archive; deflate reaches 12 with kernels alone.
MAX_EXPANSION = 64

#: What `zipfile` raises for damaged archives, a place outside of the file (OSError) included.
_DAMAGE = (BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OSError)


def pack_plan(plan: Path) -> Path:
    """Replace a plan by PLAN.zip if much of it is text; returns the file that is there now.

    Raises:
        OSError: writing failed; the plan is still there.
    """
    with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        members = list(_members(data))
        text_bytes = sum(end - start for start, end, is_text in members if is_text)
        if text_bytes < max(_CHUNK_BYTES, _WORTHWHILE_SHARE * len(data)):
            return plan
        packed = plan.with_name(plan.name + PACKED_SUFFIX)
        with atomic_path(packed) as temporary, ZipFile(temporary, "w") as archive:
            for number, (start, end, is_text) in enumerate(members):
                info = ZipInfo(f"{number:06d}")
                info.compress_type = ZIP_DEFLATED if is_text else ZIP_STORED
                archive.writestr(info, data[start:end])
    plan.unlink()
    return packed


def unpacked_bytes(packed: Path) -> int:
    """Length of the plan in an archive that `pack_plan` wrote."""
    with ZipFile(packed) as archive:
        return sum(member.file_size for member in archive.infolist())


def read_packed_plan(packed: Path, num_bytes: int) -> bytearray:
    """The plan in an archive.

    Args:
        packed: the archive; hostile until it has been read.
        num_bytes: length of the plan by the manifest. No more memory is taken.
    Raises:
        ArtifactError: no such archive, a damaged one, or one of another length.
    """
    plan = bytearray(num_bytes)
    try:
        with ZipFile(packed) as archive:
            end = _read_members(archive, memoryview(plan))
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        problem = f"is no archive of a plan ({error})"
    else:
        if end == num_bytes:
            return plan
        problem = f"holds a plan of {end} bytes, the manifest says {num_bytes}"
    raise ArtifactError(f"{packed}: {problem}; copy the engine directory again, or build it again")


def _read_members(archive: ZipFile, plan: memoryview) -> int:
    """Read all members into a plan; returns their length, and reads no member beyond the end."""
    end = 0
    for member in archive.infolist():
        start, end = end, end + member.file_size
        if end > len(plan):
            continue
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise BadZipFile(f"member {member.filename} is packed by method {member.compress_type}")
        with archive.open(member) as stream:
            if stream.readinto(plan[start:end]) != member.file_size:  # checks the sum as well
                raise BadZipFile(f"member {member.filename} is cut short")
    return end


def _members(data: mmap.mmap) -> Iterator[tuple[int, int, bool]]:
    """Cut a plan into (start, end, is text): neighbours of one kind together, up to a length."""
    start, kind = 0, _is_text(data[:_CHUNK_BYTES])
    for place in range(0, len(data), _CHUNK_BYTES):
        is_text = _is_text(data[place : place + _CHUNK_BYTES])
        if is_text != kind or place - start == _MEMBER_BYTES:
            yield start, place, kind
            start, kind = place, is_text
    yield start, len(data), kind


def _is_text(chunk: bytes) -> bool:
    others = len(chunk.translate(None, _PRINTABLE))
    return others <= (1 - _TEXT_SHARE) * len(chunk)
