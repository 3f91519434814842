"""gemv.cu in the PTX emulator; see test_gemm.py for what every run checks."""

import numpy as np
import pytest
from support_cuda import (
    DIT_LAYERS,
    QUANTIZATIONS,
    check,
    configuration_of,
    quantization_name,
    require_compiler,
    run_on_random_data,
    tile_name,
)

from vq4dit.plugins.cuda.configuration import DTYPES, EPILOGUES, GEMV_TILES

require_compiler()


@pytest.mark.parametrize("tile", GEMV_TILES, ids=tile_name)
@pytest.mark.parametrize(
    ("m", "out_features", "in_features"),
    [(1, 100, 80), (7, 15, 16), (8, 64, 1152), (17, 130, 1408)],
)
def test_every_tile_at_its_edges(tile, m, out_features, in_features):
    check(configuration_of("gemv", tile), m=m, out_features=out_features, in_features=in_features)


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=quantization_name)
def test_every_quantization(quantization):
    configuration = configuration_of("gemv", GEMV_TILES[1], quantization)
    check(configuration, m=3, out_features=88, in_features=1376)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("out_features", [80, 82, 81])  # sectors, pairs, single outputs
def test_every_epilogue(dtype, epilogue, out_features):
    configuration = configuration_of("gemv", GEMV_TILES[1], dtype=dtype, epilogue=epilogue)
    check(configuration, m=6, out_features=out_features, in_features=80, sequence=3)


@pytest.mark.parametrize("tile", GEMV_TILES, ids=tile_name)
def test_the_modulation_of_all_blocks_is_one_launch(tile):
    m, out_features, in_features, row_groups, _ = DIT_LAYERS["adaln"]
    sizes = {"m": m, "in_features": in_features}
    check(configuration_of("gemv", tile), out_features=out_features, row_groups=row_groups, **sizes)
    check(configuration_of("gemv", tile), out_features=28 * 5, row_groups=28, **sizes)


def test_a_row_does_not_depend_on_how_many_there_are_nor_on_the_tile():
    rows = [
        run_on_random_data(
            configuration_of("gemv", tile), m=m, out_features=72, in_features=1408, seed=3
        ).found[0]
        for tile in GEMV_TILES
        for m in (1, 8, 17)
    ]
    for row in rows[1:]:
        np.testing.assert_array_equal(row, rows[0])
