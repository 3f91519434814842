"""Pictures: rounding, grids, PNG files with text, and failing to write."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from vq4dit.errors import OptionError, Vq4ditError
from vq4dit.runtime.images import (
    check_writable,
    grid_from_images,
    pil_from_images,
    save_grid,
    save_images,
    save_png,
    uint8_from_pictures,
)


def test_floats_are_clipped_and_rounded():
    values = np.array([-7, -1, -0.999, 0, 0.5, 1, 3], np.float32).reshape(1, 1, 1, 7)
    assert uint8_from_pictures(values).ravel().tolist() == [0, 0, 0, 128, 191, 255, 255]


def test_channels_go_last():
    pictures = np.linspace(-1, 1, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    found = uint8_from_pictures(pictures)
    assert found.shape == (2, 4, 5, 3)
    assert found[1, 2, 3, 0] == round((float(pictures[1, 0, 2, 3]) + 1) * 127.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_pictures_are_refused(bad):
    with pytest.raises(Vq4ditError, match="NaN or infinite"):
        uint8_from_pictures(np.full((1, 1, 2, 2), bad, np.float32))


@pytest.mark.parametrize(
    ("num", "columns", "shape"),
    [(1, None, (4, 5, 3)), (4, None, (10, 12, 3)), (5, None, (10, 19, 3)), (3, 8, (4, 19, 3))],
)
def test_grid_has_every_picture_at_its_place(num, columns, shape):
    images = np.arange(num, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(5, 2)
    grid = grid_from_images(images.repeat(3, 3), columns)
    assert grid.shape == shape
    per_row = (shape[1] + 2) // 7
    for i in range(num):
        y, x = i // per_row * 6, i % per_row * 7
        assert (grid[y : y + 4, x : x + 5] == i).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_pixels_and_text(tmp_path, channels):
    image = np.arange(6 * 5 * channels, dtype=np.uint8).reshape(6, 5, channels)
    save_png(tmp_path / "a.png", image, {"labels": "T-shirt, Größe", "seed": 7})
    with Image.open(tmp_path / "a.png") as found:
        assert np.array_equal(np.asarray(found).reshape(image.shape), image)
        assert found.text == {"labels": "T-shirt, Größe", "seed": "7"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def _chunks(data):
    """Types and contents of a PNG's chunks."""
    place, found = 8, []
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def test_text_is_in_plain_chunks(tmp_path):
    save_png(str(tmp_path / "a.png"), np.zeros((2, 2, 1), np.uint8), {"seed": 7, "name": "\u732b"})
    kinds = dict(_chunks((tmp_path / "a.png").read_bytes()))
    assert kinds[b"tEXt"] == b"seed\0007"
    assert kinds[b"iTXt"].startswith(b"name\0") and "\u732b".encode() in kinds[b"iTXt"]


def test_one_file_per_picture_and_a_grid(tmp_path):
    images = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
    paths = save_images(tmp_path / "a.png", images, [{"sample": i} for i in range(3)])
    assert [p.name for p in paths] == ["a-0000.png", "a-0001.png", "a-0002.png"]
    for i, path in enumerate(paths):
        with Image.open(path) as found:
            assert np.array_equal(np.asarray(found), images[i]) and found.text == {"sample": str(i)}
    save_grid(tmp_path / "g.png", images, {"seed": 1}, columns=3)
    with Image.open(tmp_path / "g.png") as found:
        assert np.array_equal(np.asarray(found), grid_from_images(images, 3))
        assert found.text == {"seed": "1"}


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pil_images(channels, mode):
    images = np.arange(2 * 4 * 5 * channels, dtype=np.uint8).reshape(2, 4, 5, channels)
    found = pil_from_images(images)
    assert [(i.mode, i.size) for i in found] == [(mode, (5, 4))] * 2
    assert np.array_equal(np.asarray(found[1]).reshape(4, 5, channels), images[1])


def test_full_disk_keeps_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"older")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_png(path, np.zeros((2, 2, 1), np.uint8), {})
    assert path.read_bytes() == b"older" and [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_unwritable_places_are_told_early(tmp_path):
    check_writable(tmp_path / "a.png")
    with pytest.raises(OptionError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(OptionError, match="does not exist; make it first"):
        check_writable(tmp_path / "no" / "a.png")
