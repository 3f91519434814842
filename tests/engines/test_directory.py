"""Replacing a directory: all or nothing, whatever goes wrong."""

import errno
import os
import subprocess
import sys

import pytest
from tiny_engine import write_tiny_engine

from vq4dit.engines.directory import check_replaceable, new_directory
from vq4dit.errors import OptionError

pytestmark = pytest.mark.ort


def _names(directory):
    return sorted(path.name for path in directory.iterdir())


def _fill(work):
    (work / "new.txt").write_text("new")


@pytest.fixture
def old_engine(tmp_path):
    directory = tmp_path / "engine"
    write_tiny_engine(directory)
    return directory


def test_new_directory_appears_whole(tmp_path):
    out = tmp_path / "engine"
    with new_directory(out) as work:
        _fill(work)
        assert not out.exists() and work.parent == tmp_path
    assert _names(tmp_path) == ["engine"] and _names(out) == ["new.txt"]


def test_empty_directory_and_older_engine_are_replaced(tmp_path, old_engine):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", old_engine):
        with new_directory(out) as work:
            _fill(work)
        assert _names(out) == ["new.txt"]
    assert _names(tmp_path) == ["empty", "engine"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), OSError(errno.ENOSPC, "")])
def test_nothing_is_left_after_an_error(tmp_path, old_engine, error):
    before = _names(old_engine)
    for out in (tmp_path / "new", old_engine):
        with pytest.raises(type(error)), new_directory(out) as work:
            _fill(work)
            raise error
    assert _names(tmp_path) == ["engine"] and _names(old_engine) == before


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("which", [1, 2])
def test_full_disk_leaves_the_older_engine(tmp_path, old_engine, monkeypatch, call, which):
    before, calls, real = _names(old_engine), [], getattr(os, call)

    def failing(*args):
        calls.append(args)
        if len(calls) == which:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(os, call, failing)
    message = "could not be written.*No space left.*nothing of it was left.*try again"
    with pytest.raises(OSError, match=message), new_directory(old_engine) as work:
        _fill(work)
    assert _names(tmp_path) == ["engine"] and _names(old_engine) == before


def test_killed_while_building_leaves_nothing_under_the_name(tmp_path):
    program = (
        "import os; from pathlib import Path; from vq4dit.engines.directory import new_directory\n"
        f"with new_directory(Path({str(tmp_path / 'engine')!r})) as work:\n"
        "    (work / 'step.onnx').write_text('half')\n"
        "    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    assert not (tmp_path / "engine").exists()


def test_other_peoples_files_are_not_replaced(tmp_path, old_engine):
    (old_engine / "my picture.png").write_bytes(b"")
    with pytest.raises(OptionError, match="holds 'my picture.png', which is not part"):
        check_replaceable(old_engine)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(OptionError, match="neither empty nor an engine directory"):
        check_replaceable(tmp_path / "photos")
    with pytest.raises(OptionError, match="is not a folder"):
        check_replaceable(old_engine / "step.onnx")
    with pytest.raises(OptionError, match="does not exist; make it first"):
        check_replaceable(tmp_path / "no" / "engine")


def test_link_is_not_followed(tmp_path, old_engine):
    (tmp_path / "link").symlink_to(old_engine)
    with pytest.raises(OptionError, match="is not a folder"):
        check_replaceable(tmp_path / "link")


def test_foreign_file_that_appears_while_building_is_kept(old_engine):
    with pytest.raises(OptionError, match="holds 'late.txt'"), new_directory(old_engine) as work:
        _fill(work)
        (old_engine / "late.txt").write_text("mine")
    assert (old_engine / "late.txt").read_text() == "mine"
