"""What the cost model counts, the emulator counts too: passes of the shared-memory banks."""

import pytest
from support_cuda import (
    check,
    configuration_of,
    require_compiler,
)

from vq4dit.plugins.cuda.codebook_format import CodebookFormat
from vq4dit.plugins.cuda.configuration import GEMM_TILES, GEMV_TILES, WGMMA_TILES
from vq4dit.plugins.cuda.cost_model import (
    gemm_shared_bytes,
    gemm_wavefronts,
    gemv_shared_bytes,
    gemv_wavefronts,
)
from vq4dit.plugins.cuda.launch_table import (
    CODEBOOK_GEMMS,
    CODEBOOK_GEMVS,
    CODEBOOK_WGMMAS,
    STEP,
    LaunchTile,
)
from vq4dit.plugins.layout import CONFIGURATIONS, GroupOrder

require_compiler()

ORDERS = {1: GroupOrder.MMA32, 2: GroupOrder.MMA16, 3: GroupOrder.CONTIGUOUS,
          4: GroupOrder.CONTIGUOUS}  # fmt: skip


def name(tile):
    return tile.name if isinstance(tile, LaunchTile) else ""


@pytest.mark.parametrize(
    ("tile", "modelled"), list(zip(GEMM_TILES, CODEBOOK_GEMMS, strict=True)), ids=name
)
def test_gemm_reads_shared_memory_as_often_as_the_model_says(tile, modelled):
    steps = 2 * tile.split_k
    run = check(
        configuration_of("gemm", tile),
        m=tile.block_m, out_features=tile.block_n, in_features=steps * STEP,
    )  # fmt: skip
    assert_reads(run.report, gemm_wavefronts(modelled, is_dense=False), steps)


@pytest.mark.parametrize(
    ("tile", "modelled"), list(zip(GEMV_TILES, CODEBOOK_GEMVS, strict=True)), ids=name
)
def test_gemv_reads_shared_memory_as_often_as_the_model_says(tile, modelled):
    steps = tile.stages * tile.split_k - 2  # the last slices have a step less
    run = check(
        configuration_of("gemv", tile),
        m=tile.block_m, out_features=tile.block_n, in_features=steps * STEP,
    )  # fmt: skip
    assert_reads(run.report, gemv_wavefronts(modelled), steps)


@pytest.mark.parametrize(
    ("tile", "modelled"), list(zip(WGMMA_TILES[-2:], CODEBOOK_WGMMAS[-2:], strict=True)), ids=name
)
def test_wgmma_looks_codewords_up_as_often_as_the_model_says(tile, modelled):
    """What the tensor cores read of x themselves is no instruction of a warp."""
    steps = 4 * tile.split_k
    run = check(
        configuration_of("wgmma", tile),
        m=tile.block_m, out_features=tile.block_n, in_features=steps * STEP,
    )  # fmt: skip
    loop = run.report.main_loop("wgmma")
    found = run.report.wavefronts("ld.shared", within=loop).found
    assert found == steps * gemm_wavefronts(modelled, is_dense=False)["w"]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_shared_memory_is_that_of_the_launch(bits):
    weight = CodebookFormat.from_bits(bits)
    quantization = (*CONFIGURATIONS[bits], ORDERS[bits])
    for kernel, tiles, modelled, size in (
        ("gemm", GEMM_TILES, CODEBOOK_GEMMS, gemm_shared_bytes),
        ("gemv", GEMV_TILES, CODEBOOK_GEMVS, gemv_shared_bytes),
        ("wgmma", WGMMA_TILES, CODEBOOK_WGMMAS, gemm_shared_bytes),
    ):
        for tile, model in zip(tiles, modelled, strict=True):
            configuration = configuration_of(kernel, tile, quantization)
            assert size(model, weight) == configuration.shared_bytes


def assert_reads(report, wavefronts, steps):
    """Of one block: every pass of the main loop's reads, and none for conflicts."""
    loop = report.main_loop()
    for mnemonic, operand in (("ldmatrix", "x"), ("ld.shared", "w")):
        found = report.wavefronts(mnemonic, within=loop)
        assert found.conflicts == 0
        assert found.found == steps * wavefronts[operand]
