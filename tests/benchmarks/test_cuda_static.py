"""The CUDA kernels' machine code: no spills, and a main loop as short as a plain GEMM's."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from ptx import run_kernel
from tolerances import CUDA_FP16_RELATIVE

from vq4dit.errors import BackendUnavailable
from vq4dit.plugins.cuda.compile import SMS, set_ptx_version
from vq4dit.plugins.cuda.configuration import (
    GEMM_TILES,
    GEMV_TILES,
    WGMMA_TILES,
    KernelConfiguration,
)
from vq4dit.plugins.cuda.launch_table import CODEBOOK_GEMMS, CODEBOOK_GEMVS, CODEBOOK_WGMMAS
from vq4dit.plugins.cuda.nvrtc import load_nvrtc
from vq4dit.plugins.cuda.sm_limits import UNASKED_SHARED_BYTES

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

#: Instructions of the main loop over those of a plain float16 GEMM that Triton compiles.
LOOP_RATIO = 1.2

#: The same over our own kernel without its decoding, whose loop is shorter than Triton's: a look-up
#: (shift, logic, load) serves 2 or 4 tensor-core products, half of an ldmatrix the twin's.
TWIN_RATIO = 1.4

#: Both for the tiles that get by with the shared memory of every launch: two stages leave so little
#: to a plain loop that the decoding weighs more.
FALLBACK_LOOP_RATIO, FALLBACK_TWIN_RATIO = 1.25, 1.5

#: The cost model's table of counts, or its estimate for tiles that are not in the table, against
#: the compiler of the day: instructions bind no kernel, registers decide over one block more.
COUNTS_RELATIVE = 0.15
REGISTERS_RELATIVE = 0.3


@pytest.fixture(scope="module")
def static():
    """The benchmark's module; skips without compiler or disassembler."""
    sys.path.insert(0, str(FOLDER))
    try:
        sass = importlib.import_module("sass")
        for tool in ("nvdisasm", "cuobjdump"):
            if sass.find_tool(tool) is None:
                pytest.skip(f"{tool} is not installed (pip install nvidia-cuda-{tool})")
        try:
            load_nvrtc()
        except BackendUnavailable as error:
            pytest.skip(f"no CUDA compiler: {error}")
        pytest.importorskip("triton")
        yield importlib.import_module("cuda_static")
    finally:
        sys.path.remove(str(FOLDER))


def tile_name(tile):
    shape = f"{tile.block_m}x{tile.block_n}w{tile.warp_m}x{tile.warp_n}"
    return f"{shape}s{tile.stages}/{tile.split_k}"


def check(row, comparable):
    is_fallback = row["shared_bytes"] <= UNASKED_SHARED_BYTES
    loop_ratio = FALLBACK_LOOP_RATIO if is_fallback else LOOP_RATIO
    twin_ratio = FALLBACK_TWIN_RATIO if is_fallback else TWIN_RATIO
    assert (row["spills"], row["stack_bytes"]) == (0, 0)
    assert row["blocks_per_sm"] >= 1
    assert row["loop"]["HMMA"] == row["twin"]["loop"]["HMMA"]
    if row["sm"] in comparable:
        assert row["twin"]["ratio"] <= twin_ratio
    if row["triton"] is not None:
        assert row["triton"]["spills"] == 0
        assert row["triton"]["loop"]["HMMA"] == row["loop"]["HMMA"]
        assert row["triton"]["ratio"] <= loop_ratio


@pytest.mark.parametrize(("kernel", "tiles", "modelled"), [
    ("gemm", GEMM_TILES, CODEBOOK_GEMMS), ("gemv", GEMV_TILES, CODEBOOK_GEMVS),
    ("wgmma", WGMMA_TILES, CODEBOOK_WGMMAS),
])  # fmt: skip
def test_cost_model_counts_the_instructions_that_there_are(static, kernel, tiles, modelled):
    for tile, model in zip(tiles, modelled, strict=True):
        configuration = KernelConfiguration(kernel=kernel, tile=tile)
        row = static.static_row(configuration, configuration.only_sm or 80, compare=False)
        steps = {"gemm": 1, "gemv": tile.stages, "wgmma": 2}[kernel]
        assert model.loop_instructions * steps == pytest.approx(
            row["loop_instructions"], rel=COUNTS_RELATIVE
        )
        assert model.registers == pytest.approx(row["registers"], rel=REGISTERS_RELATIVE)


@pytest.mark.parametrize("tile", WGMMA_TILES, ids=tile_name)
def test_wgmma_does_not_spill_and_decodes_into_its_operands(static, tile):
    row = static.static_row(KernelConfiguration(kernel="wgmma", tile=tile), 90)
    assert (row["spills"], row["stack_bytes"]) == (0, 0)
    assert row["blocks_per_sm"] >= tile.min_blocks
    loop = row["loop"]  # of two steps of 64 columns
    assert loop["HMMA"] == 2 * 4
    assert loop["LDG"] == 2 * 2  # the indices of two rows
    assert loop["LDGSTS"] == 2 * tile.split_k * tile.block_m * 8 // row["threads"]
    assert "LDSM" not in loop and "STS" not in loop
    # Issued by four schedulers in less time than the tensor cores take for the products.
    cycles = 2 * tile.split_k * tile.block_m * tile.block_n * 64 / 2048
    assert row["loop_instructions"] * row["threads"] / 32 / 4 <= cycles


@pytest.mark.parametrize("tile", GEMM_TILES, ids=tile_name)
def test_gemm_does_not_spill_and_its_loop_is_short(static, tile):
    check(static.static_row(KernelConfiguration(kernel="gemm", tile=tile), 80), static.COMPARABLE)


@pytest.mark.parametrize("tile", [GEMM_TILES[3], GEMM_TILES[4]], ids=tile_name)
def test_twin_is_a_gemm(static, tile):
    """What is counted against must do the work: in the emulator, with tails in every size."""
    configuration = KernelConfiguration(kernel="gemm", tile=tile)
    main_file, texts, macros = static.twin_source(configuration)
    ptx = set_ptx_version(load_nvrtc().ptx(main_file, texts, 80, macros), "8.0")
    m, n, k = tile.block_m + 9, tile.block_n + 14, 5 * 64 + 16
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal((rows, k)).astype(np.float16) for rows in (m, n))
    bias = rng.standard_normal(n).astype(np.float16)
    y = np.full((m, n), np.nan, np.float16)
    shared = tile.stages * tile.split_k * (tile.block_m + tile.block_n) * 128
    report = run_kernel(
        ptx, static.TWIN_NAME, (2, 2), configuration.threads, [x, weight, bias, m, n, k, y], shared
    )
    expected = x.astype(np.float32) @ weight.T.astype(np.float32) + bias
    error = np.linalg.norm(y - expected) / np.linalg.norm(expected)
    assert error <= CUDA_FP16_RELATIVE
    assert report.wavefronts(within=report.main_loop()).conflicts == 0


@pytest.mark.toolchain
@pytest.mark.parametrize("sm", SMS)
def test_every_kernel_on_every_architecture(static, sm):
    for configuration in static.configurations(sm):
        row = static.static_row(configuration, sm)
        assert (row["spills"], row["stack_bytes"]) == (0, 0), configuration.name
        if configuration.kernel == "gemm" and "k256d4_mma16" in configuration.name:
            check(row, static.COMPARABLE)
