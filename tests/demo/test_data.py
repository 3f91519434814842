"""The reader of Fashion-MNIST's files: whole files, damaged files, ranges."""

import gzip

import numpy as np
import pytest
import torch

from vq4dit.demo.data import load_split, pad, read_idx, to_range
from vq4dit.errors import ArtifactError


def test_load_split_reads_pictures_and_labels(data_folder):
    pictures, labels = load_split(data_folder, "test")
    assert pictures.shape == (40, 1, 28, 28)
    assert pictures.dtype == torch.uint8
    assert labels.tolist() == [i % 10 for i in range(40)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "not a whole gzip file"),
        (gzip.compress(bytes(100))[:-10], "not a whole gzip file"),
        (gzip.compress(b"\0\0"), "needed 00000801"),
        (gzip.compress(bytes([0, 0, 8, 3]) + bytes(4)), "needed 00000801"),
        (gzip.compress(bytes([0, 0, 8, 1]) + bytes([0, 0, 0, 5]) + bytes(4)), "needed 13"),
        (gzip.compress(bytes([0, 0, 8, 1]) + bytes([255] * 4)), "needed 4294967303"),
    ],
    ids=["not-gzip", "truncated", "no-header", "rank", "too-short", "absurd-size"],
)
def test_read_idx_refuses_damaged_files(tmp_path, content, message):
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        read_idx(path, rank=1)


def test_load_split_refuses_files_that_do_not_belong_together(tmp_path, data_folder):
    for split in ("train-images-idx3", "t10k-labels-idx1"):
        content = (data_folder / f"{split}-ubyte.gz").read_bytes()
        (tmp_path / f"train-{split.split('-', 1)[1]}-ubyte.gz").write_bytes(content)
    with pytest.raises(ArtifactError, match="128 train pictures but 40 labels"):
        load_split(tmp_path, "train")


def test_pictures_are_scaled_to_the_range_and_padded_with_black():
    pictures = torch.from_numpy(np.full((1, 1, 28, 28), 255, np.uint8))
    padded = pad(pictures)
    assert padded.shape == (1, 1, 32, 32)
    assert torch.equal(padded[:, :, 2:30, 2:30], to_range(pictures))
    assert padded[0, 0, 0, 0] == -1
    assert padded.max() == 1
