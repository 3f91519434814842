"""A tiny synthetic data set in Fashion-MNIST's file format."""

import gzip

import numpy as np
import pytest


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """128 training and 40 test pictures whose brightness tells their label."""
    folder = tmp_path_factory.mktemp("fashion")
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 128), ("t10k", 40)):
        labels = np.arange(count) % 10
        pictures = rng.integers(0, 80, (count, 28, 28)) + 15 * labels[:, None, None]
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", pictures)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder
