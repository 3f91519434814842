"""What a manifest says of an engine's files, and whether they are the ones it means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from .errors import ArtifactError
from .json_fields import Fields
from .packed_plan import MAX_EXPANSION, PACKED_SUFFIX, unpacked_bytes

#: Files of an engine: the step model and its external data, the decoder likewise, the self-test.
#: TensorRT plans have no external data.
ROLES = ("step", "step_data", "decoder", "decoder_data", "selftest")
REQUIRED_ROLES = ("step", "selftest")

_READ_BYTES = 4 << 20
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an engine.

    Args:
        name: plain, inside the directory.
        sha256: hash of the file; bytes: its length.
        unpacked_bytes: length of the plan in it where the file is a packed plan, else None.
    """

    name: str
    sha256: str
    bytes: int
    unpacked_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {key: value for key, value in vars(self).items() if value is not None}


def file_entry(path: Path) -> FileEntry:
    """What there is to say of a file that was just written."""
    return FileEntry(
        name=path.name,
        sha256=hash_file(path),
        bytes=path.stat().st_size,
        unpacked_bytes=unpacked_bytes(path) if path.suffix == PACKED_SUFFIX else None,
    )


def hash_file(path: Path) -> str:
    """SHA-256 of a file, streamed, as 64 hexadecimal digits."""
    digest = sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def entries_from_json(values: Mapping[str, Any]) -> dict[str, FileEntry]:
    """Role -> file; plain names only, so that no name leads out of the directory.

    Raises:
        ArtifactError: naming the key, what was found and what was needed.
    """
    unknown = sorted(set(values) - set(ROLES))
    if unknown:
        raise ArtifactError(f"files has the unknown role {unknown[0]!r}; known are {ROLES}")
    entries = {role: _entry(Fields(value, f"files.{role}")) for role, value in values.items()}
    missing = [role for role in REQUIRED_ROLES if role not in entries]
    if missing:
        raise ArtifactError(f"files lacks the role {missing[0]!r}")
    names = [entry.name for entry in entries.values()]
    if len(set(names)) != len(names):
        raise ArtifactError(f"files names one file twice: {names}")
    return entries


def check_files(directory: Path, entries: Mapping[str, FileEntry]) -> None:
    """Compare size and SHA-256 of every file with the manifest's entries.

    Raises:
        ArtifactError: a file is missing, of another size, or of another hash.
    """
    again = "copy the engine directory again, or build it again"
    for role, entry in entries.items():
        path = directory / entry.name
        if not path.is_file():
            raise ArtifactError(f"{path}: the engine's {role} file is missing; {again}")
        size = path.stat().st_size
        if size != entry.bytes:
            raise ArtifactError(
                f"{path}: is {size} bytes long, the manifest says {entry.bytes}; {again}"
            )
        found = hash_file(path)
        if found != entry.sha256:
            raise ArtifactError(
                f"{path}: has SHA-256 {found}, the manifest says {entry.sha256}; the file is "
                f"damaged or was changed; {again}"
            )


def _entry(fields: Fields) -> FileEntry:
    entry = FileEntry(
        name=fields.pattern("name", _PLAIN_NAME),
        sha256=fields.pattern("sha256", _SHA256),
        bytes=fields.integer("bytes", 0, 1 << 50),
        unpacked_bytes=(
            fields.integer("unpacked_bytes", 0, 1 << 50)
            if "unpacked_bytes" in fields.values
            else None
        ),
    )
    fields.refuse_unknown()
    if entry.unpacked_bytes is not None and entry.unpacked_bytes > MAX_EXPANSION * entry.bytes:
        raise ArtifactError(
            f"{entry.name}: unpacked_bytes is {entry.unpacked_bytes}, needed at most "
            f"{MAX_EXPANSION} times its {entry.bytes} bytes"
        )
    return entry
