"""gemm.cu in the PTX emulator: right outputs, no race, no access out of bounds, no bank conflict.

Every run also checks what the emulator always checks (tests/ptx): reads of what was never written,
alignment, barriers that part of a block misses.
"""

import numpy as np
import pytest
from support_cuda import (
    QUANTIZATIONS,
    check,
    check_layer_of_dit,
    configuration_of,
    quantization_name,
    require_compiler,
    run_on_random_data,
    tile_name,
)

from vq4dit.plugins.cuda.configuration import DTYPES, EPILOGUES, GEMM_TILES

require_compiler()

SMALL_TILE, SPLIT_TILE = GEMM_TILES[3], GEMM_TILES[4]


@pytest.mark.parametrize("tile", GEMM_TILES, ids=tile_name)
@pytest.mark.parametrize(
    ("m", "out_features", "in_features"),
    [(1, 100, 80), (7, 15, 16), (63, 130, 336), (65, 72, 1152), (130, 192, 128)],
)
def test_every_tile_at_its_edges(tile, m, out_features, in_features):
    check(configuration_of("gemm", tile), m=m, out_features=out_features, in_features=in_features)


@pytest.mark.parametrize("layer", ["qkv", "proj", "fc1", "fc2"])
def test_layers_of_dit(layer):
    check_layer_of_dit("gemm", SMALL_TILE, layer)


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=quantization_name)
@pytest.mark.parametrize("tile", [GEMM_TILES[2], SPLIT_TILE], ids=tile_name)
def test_every_quantization(quantization, tile):
    check(configuration_of("gemm", tile, quantization), m=66, out_features=88, in_features=352)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("out_features", [80, 82, 81])  # sectors, pairs, single outputs
def test_every_epilogue(dtype, epilogue, out_features):
    configuration = configuration_of("gemm", SMALL_TILE, dtype=dtype, epilogue=epilogue)
    check(configuration, m=66, out_features=out_features, in_features=80, sequence=33)


@pytest.mark.parametrize(("out_features", "row_groups"), [(3 * 70, 3), (2 * 33, 2), (5, 5)])
def test_tiles_do_not_cross_row_groups(out_features, row_groups):
    for tile in (SMALL_TILE, SPLIT_TILE):
        sizes = {"m": 9, "out_features": out_features, "in_features": 160}
        check(configuration_of("gemm", tile), row_groups=row_groups, **sizes)


def test_a_row_does_not_depend_on_how_many_there_are_nor_on_the_tile():
    sizes = {"out_features": 72, "in_features": 208, "seed": 3}
    for split_k in (1, 2):
        tiles = [tile for tile in GEMM_TILES if tile.split_k == split_k]
        rows = [
            run_on_random_data(configuration_of("gemm", tile), m=m, **sizes).found[0]
            for tile in tiles
            for m in (1, 65, 130)
        ]
        for row in rows[1:]:
            np.testing.assert_array_equal(row, rows[0])


def test_activations_keep_large_inputs():
    # e^-y overflows float32 below -88: the activations must give zero there, not NaN.
    for epilogue in ("gelu_tanh", "silu"):
        configuration = configuration_of("gemm", SMALL_TILE, epilogue=epilogue)
        run = check(configuration, m=8, out_features=16, in_features=64, scale=300.0)
        assert run.needed.max() > 300
        assert (run.found == 0).any()
