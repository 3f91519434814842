"""Packed plans: the same bytes back, smaller where there is text, and no hostile archive."""

import io
import random
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq4dit.engine_files import FileEntry, entries_from_json, file_entry
from vq4dit.errors import ArtifactError
from vq4dit.packed_plan import MAX_EXPANSION, pack_plan, read_packed_plan

CHUNK = 1 << 16
LIBRARY = "\n".join(f"using __type_{i} = float; // {i * i}" for i in range(4000)).encode()


def weights(num_bytes, seed=1):
    return np.random.default_rng(seed).bytes(num_bytes)


def kernels(count):
    return b"".join(
        b'%s\nextern "C" __global__ void kernel_%d();' % (LIBRARY, i) for i in range(count)
    )


@pytest.fixture
def packed(tmp_path):
    """A function that writes a plan and packs it; gives the file and the plan."""

    def pack(*parts):
        path = tmp_path / "step.plan"
        path.write_bytes(b"".join(parts))
        return pack_plan(path), b"".join(parts)

    return pack


def test_the_same_bytes_come_back(packed):
    path, plan = packed(b"\0\1head", kernels(9), weights(700_001), kernels(1), weights(5))
    assert path.name == "step.plan.zip" and not path.with_suffix("").exists()
    assert read_packed_plan(path, len(plan)) == plan
    assert path.stat().st_size < 700_000 + 0.3 * (len(plan) - 700_000)
    entry = file_entry(path)
    assert (entry.bytes, entry.unpacked_bytes) == (path.stat().st_size, len(plan))
    shown = subprocess.run(
        [sys.executable, "-m", "zipfile", "-t", path], capture_output=True, text=True
    )
    assert "Done testing" in shown.stdout


def test_weights_are_stored_as_they_are(packed):
    body = weights(40 * CHUNK)
    path, _ = packed(kernels(9), body)
    with zipfile.ZipFile(path) as archive:
        stored = [m for m in archive.infolist() if m.compress_type == zipfile.ZIP_STORED]
    assert sum(member.file_size for member in stored) >= len(body) - CHUNK


def test_members_are_of_bounded_length(packed):
    path, plan = packed(kernels(20), bytes(40 << 20))
    with zipfile.ZipFile(path) as archive:
        assert max(member.file_size for member in archive.infolist()) <= 16 << 20
    assert read_packed_plan(path, len(plan)) == plan


@pytest.mark.parametrize(
    "parts", [(b"x",), (weights(300_000),), (kernels(1), weights(8_000_000))], ids=len
)
def test_what_would_not_gain_stays(packed, parts):
    path, plan = packed(*parts)
    assert path.name == "step.plan" and path.read_bytes() == plan
    assert [p.name for p in path.parent.iterdir()] == ["step.plan"]
    assert file_entry(path).unpacked_bytes is None


def test_same_plan_gives_the_same_bytes(packed):
    first = packed(kernels(3))[0].read_bytes()
    assert packed(kernels(3))[0].read_bytes() == first


def test_a_full_disk_leaves_the_plan(packed, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(OSError, match="No space left"):
        packed(kernels(3))
    assert [p.name for p in tmp_path.iterdir()] == ["step.plan"]


@pytest.mark.parametrize("told", [0, 10, 1 << 20])
def test_another_length_than_the_manifest_says(packed, told):
    path, plan = packed(kernels(3))
    with pytest.raises(ArtifactError, match=f"holds a plan of {len(plan)} bytes, .* says {told};"):
        read_packed_plan(path, told)


def archive_of(*members, method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for number, data in enumerate(members):
            archive.writestr(str(number), data)
    return stream.getvalue()


def with_claimed_size(data, true_size, claimed):
    """An archive whose directory and member tell another length."""
    old, new = true_size.to_bytes(4, "little"), claimed.to_bytes(4, "little")
    assert data.count(old) == 2
    return data.replace(old, new)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no archive of a plan"),
        (b"PK\5\6" + bytes(10), "is no archive of a plan"),
        (archive_of(b"a" * 500, b"b" * 501), "holds a plan of 1001 bytes, the manifest says 1000"),
        (archive_of(b"a" * 1000, method=zipfile.ZIP_LZMA), "is no archive of a plan"),
        (archive_of(b"a" * 1000, method=zipfile.ZIP_BZIP2), "is no archive of a plan"),
        (with_claimed_size(archive_of(b"a" * 700), 700, 1000), "is no archive of a plan"),
    ],
    ids=["empty", "cut", "longer", "lzma", "bzip2", "shorter than it claims"],
)
def test_foreign_archives_are_refused(tmp_path, data, message):
    path = tmp_path / "step.plan.zip"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=f"step.plan.zip: {message}.*; copy the engine"):
        read_packed_plan(path, 1000)


def test_a_bomb_takes_no_memory(tmp_path):
    """A member that claims 1000 bytes and inflates to a quarter of a gigabyte."""
    size = 17 << 24
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("0", "w") as member:
            for _ in range(size >> 24):
                member.write(bytes(1 << 24))
    path = tmp_path / "step.plan.zip"
    path.write_bytes(with_claimed_size(stream.getvalue(), size, 1000))
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="is no archive of a plan"):
        read_packed_plan(path, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 20))
def test_damage_is_refused_or_harmless(seed, count, tmp_path_factory):
    """Bytes changed anywhere: an `ArtifactError`, or the plan unharmed (the change hit a name)."""
    chooser = random.Random(seed)
    data = bytearray(archive_of(b"text " * 40, b"more " * 40))
    for _ in range(count):
        data[chooser.randrange(len(data))] = chooser.randrange(256)
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    path.write_bytes(data[: chooser.choice([len(data), chooser.randrange(len(data))])])
    try:
        found = read_packed_plan(path, 400)
    except ArtifactError:
        return
    assert found == b"text " * 40 + b"more " * 40, seed


def test_entries_tell_the_length_where_there_is_one():
    entry = FileEntry(name="step.plan.zip", sha256="0" * 64, bytes=10, unpacked_bytes=99)
    plain = FileEntry(name="selftest.safetensors", sha256="0" * 64, bytes=10)
    values = {"step": entry.to_dict(), "selftest": plain.to_dict()}
    assert set(values["selftest"]) == {"name", "sha256", "bytes"}
    assert entries_from_json(values) == {"step": entry, "selftest": plain}
    values["step"]["unpacked_bytes"] = 10 * MAX_EXPANSION + 1
    with pytest.raises(
        ArtifactError, match="unpacked_bytes is 641, needed at most 64 times its 10"
    ):
        entries_from_json(values)
