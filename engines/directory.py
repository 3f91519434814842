"""Replace a whole directory at once: build beside it, then rename; nothing half-written remains."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vq4dit.atomic_file import umask
from vq4dit.errors import ArtifactError, OptionError

from .manifest import MANIFEST_NAME, load_manifest


def check_replaceable(out_dir: Path) -> None:
    """Refuse a place that is no engine directory and not empty, so that nothing of value is lost.

    Raises:
        OptionError: out_dir is a file, holds something else than an engine, or has no parent.
    """
    if not out_dir.parent.is_dir():
        raise OptionError(f"{out_dir}: the folder {out_dir.parent} does not exist; make it first")
    if out_dir.is_symlink() or (out_dir.exists() and not out_dir.is_dir()):
        raise OptionError(f"{out_dir}: is not a folder, needed a new or an engine directory")
    if not out_dir.exists() or not any(out_dir.iterdir()):
        return
    try:
        manifest = load_manifest(out_dir)
    except ArtifactError as error:
        raise OptionError(
            f"{out_dir}: is neither empty nor an engine directory ({error}); choose another -o, "
            "or empty it"
        ) from None
    own = {MANIFEST_NAME, *(entry.name for entry in manifest.files.values())}
    foreign = sorted(path.name for path in out_dir.iterdir() if path.name not in own)
    if foreign:
        raise OptionError(
            f"{out_dir}: holds {foreign[0]!r}, which is not part of the engine there; move it, "
            "or choose another -o"
        )


@contextmanager
def new_directory(out_dir: Path) -> Iterator[Path]:
    """Give a temporary directory beside out_dir; on success it becomes out_dir, else it vanishes.

    An older engine at out_dir is replaced and comes back if that fails.

    Raises:
        OptionError: out_dir may not be replaced.
        OSError: writing failed, for instance because the disk is full.
    """
    out_dir = out_dir.absolute()
    check_replaceable(out_dir)
    work: Path | None = None
    try:
        work = Path(
            tempfile.mkdtemp(prefix=f".{out_dir.name}.", suffix=".building", dir=out_dir.parent)
        )
        work.chmod(0o777 & ~umask())
        yield work
        _sync(work)
        check_replaceable(out_dir)
        _swap_in(work, out_dir)
    except BaseException as error:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, OSError):
            message = (
                f"{out_dir}: could not be written ({error}); nothing of it was left; "
                "if the disk is full, free space and try again"
            )
            raise OSError(message) from error
        raise


def _swap_in(work: Path, out_dir: Path) -> None:
    """Rename work to out_dir, over an older engine if there is one."""
    backup = work.with_suffix(".replaced")
    had_old = out_dir.exists()
    if had_old:
        os.rename(out_dir, backup)
    try:
        os.rename(work, out_dir)
    except BaseException:
        if had_old:
            os.rename(backup, out_dir)
        raise
    _sync_entry(out_dir.parent)
    if had_old:
        shutil.rmtree(backup, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Force all files of a directory and its entries to the disk."""
    for path in sorted(directory.iterdir()):
        _sync_entry(path)
    _sync_entry(directory)


def _sync_entry(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
