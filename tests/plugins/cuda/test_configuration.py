"""Configurations: what is accepted, unique names, sizes."""

from dataclasses import replace
from itertools import product

import pytest
from support_cuda import QUANTIZATIONS, configuration_of

from vq4dit.errors import OptionError, ShapeError
from vq4dit.plugins.cuda.configuration import (
    DTYPES,
    EPILOGUES,
    GEMM_TILES,
    MAX_SHARED_BYTES,
    ONLY_SM,
    TILES,
    KernelConfiguration,
    supported_tiles,
)
from vq4dit.plugins.cuda.sm_limits import UNASKED_SHARED_BYTES
from vq4dit.plugins.layout import AssignmentLayout, GroupOrder


def every_configuration():
    for kernel, dtype, quantization in product(TILES, DTYPES, QUANTIZATIONS):
        for tile, epilogue in product(supported_tiles(kernel), EPILOGUES):
            if kernel != "decode" or epilogue == "none":
                yield configuration_of(kernel, tile, quantization, dtype=dtype, epilogue=epilogue)


def test_names_are_unique_and_identifiers():
    names = [configuration.name for configuration in every_configuration()]
    assert len(names) == len(set(names)) > 500
    assert all(name.isidentifier() for name in names)


def test_sizes_are_what_a_block_may_have():
    for configuration in every_configuration():
        assert configuration.shared_bytes <= configuration.max_shared_bytes
        assert (configuration.max_shared_bytes == MAX_SHARED_BYTES) == (not configuration.only_sm)
        assert 32 <= configuration.threads <= (512 if configuration.only_sm else 256)
        assert configuration.threads == 32 * configuration.warps


def test_shared_memory_of_the_largest_tile():
    # 256 codebook rows of 128 bytes; 3 tiles of x of 128 rows by 64 columns in float16.
    configuration = KernelConfiguration(kernel="gemm")
    assert configuration.shared_bytes == 256 * 128 + 3 * 128 * 64 * 2
    six_bits = configuration_of("gemm", GEMM_TILES[0], QUANTIZATIONS[2])
    assert six_bits.shared_bytes == 64 * 128 + 3 * 128 * 64 * 2


def test_layers_are_read_in_mma_lanes():
    layout = KernelConfiguration(kernel="gemm").layout(1152)
    assert layout.assignment_layout == AssignmentLayout.MMA_LANES
    assert layout.in_features == 1152


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": "conv"}, "kernel is 'conv', needed one of gemm, gemv, decode"),
        ({"dtype": "float32"}, "dtype is 'float32', needed one of float16, bfloat16"),
        ({"epilogue": "relu"}, "epilogue is 'relu', needed one of none, gelu_tanh"),
        ({"kernel": "gemv"}, "no gemv kernel has the tile"),
        ({"tile": replace(GEMM_TILES[0], stages=9)}, "no gemm kernel has the tile"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(OptionError, match=message):
        KernelConfiguration(**({"kernel": "gemm"} | changes))


def test_decode_has_no_epilogue():
    with pytest.raises(OptionError, match="decode has no epilogue, found silu"):
        configuration_of("decode", TILES["decode"][0], epilogue="silu")


def test_quantizations_without_kernels_are_refused():
    with pytest.raises(ShapeError, match="mma_lanes is not made for"):
        KernelConfiguration(kernel="gemm", codebook_size=64)
    with pytest.raises(ShapeError, match="multiple of 8"):
        configuration_of("gemm", GEMM_TILES[0], (256, 2, GroupOrder.CONTIGUOUS)).layout(36)
    with pytest.raises(OptionError, match="needed one of gemm, gemv, decode"):
        supported_tiles("conv")


def test_a_warpgroup_has_four_warps():
    for tile in TILES["wgmma"]:
        configuration = configuration_of("wgmma", tile)
        assert configuration.warps == 4 * tile.split_k * tile.block_n / 64
        assert configuration.only_sm == 90


@pytest.mark.parametrize("kernel", [kernel for kernel in TILES if kernel not in ONLY_SM])
def test_some_tile_of_each_kernel_needs_no_launcher_that_asks_for_shared_memory(kernel):
    for quantization in QUANTIZATIONS:
        configurations = [
            configuration_of(kernel, tile, quantization) for tile in supported_tiles(kernel)
        ]
        assert any(c.shared_bytes <= UNASKED_SHARED_BYTES for c in configurations)
