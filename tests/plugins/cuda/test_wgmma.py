"""wgmma.cu in the PTX emulator: right outputs, no race, nothing touched too early; bugs are found.

The emulator's checks of products in the background have tests of their own, and Triton's code
passes them (tests/ptx_emulator).
"""

import re
import subprocess

import numpy as np
import pytest
import support_cuda
import tolerances
from ptx import FailureKind, KernelFailure
from support_cuda import (
    QUANTIZATIONS,
    check,
    check_layer_of_dit,
    configuration_of,
    packaged_tool,
    quantization_name,
    require_compiler,
    run_on_random_data,
    tile_name,
)

from vq4dit.errors import OptionError
from vq4dit.plugins.cuda.compile import SMS, compile_cubin, compile_ptx
from vq4dit.plugins.cuda.configuration import DTYPES, EPILOGUES, WGMMA_TILES

require_compiler()

FIRST, SPLIT, SMALL = WGMMA_TILES[0], WGMMA_TILES[4], WGMMA_TILES[5]


@pytest.mark.parametrize("tile", WGMMA_TILES, ids=tile_name)
@pytest.mark.parametrize(
    ("m", "out_features", "in_features"),
    [(130, 100, 336), (65, 72, 704)],  # 6 and 11 steps of 64 columns: slices have 3 and 6
)
def test_every_tile_at_its_edges(tile, m, out_features, in_features):
    check(configuration_of("wgmma", tile), m=m, out_features=out_features, in_features=in_features)


@pytest.mark.parametrize("layer", ["qkv", "proj", "fc1", "fc2"])
def test_layers_of_dit(layer):
    check_layer_of_dit("wgmma", SMALL, layer)


def test_one_step():
    for tile in (FIRST, SMALL):
        check(configuration_of("wgmma", tile), m=7, out_features=15, in_features=16)


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=quantization_name)
def test_every_quantization(quantization):
    sizes = {"m": 66, "out_features": 88, "in_features": 352}
    check(configuration_of("wgmma", SMALL, quantization), **sizes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_every_epilogue(dtype, epilogue):
    configuration = configuration_of("wgmma", SMALL, dtype=dtype, epilogue=epilogue)
    for out_features in (80, 82, 81):  # sectors, pairs, single outputs
        check(configuration, m=66, out_features=out_features, in_features=80, sequence=33)


@pytest.mark.parametrize(("out_features", "row_groups"), [(3 * 70, 3), (2 * 33, 2), (5, 5)])
def test_tiles_do_not_cross_row_groups(out_features, row_groups):
    check(
        configuration_of("wgmma", SMALL),
        m=9, out_features=out_features, in_features=160, row_groups=row_groups,
    )  # fmt: skip


def test_a_row_does_not_depend_on_how_many_there_are_nor_on_the_tile():
    for split_k in (1, 2):
        tiles = [tile for tile in WGMMA_TILES if tile.split_k == split_k]
        rows = [
            run_on_random_data(
                configuration_of("wgmma", tile), m=m, out_features=72, in_features=208, seed=3
            ).found[0]
            for tile in tiles
            for m in (1, 130)
        ]
        for row in rows[1:]:
            np.testing.assert_array_equal(row, rows[0])


def test_decoding_needs_no_more_than_two_loads_of_a_lane():
    """Per step, warp and 16 columns: a look-up of row g, one of row g + 8; x is read by nobody."""
    steps = 6
    run = check(configuration_of("wgmma", FIRST), m=128, out_features=128, in_features=steps * 64)
    loop = run.report.main_loop("wgmma")
    warps = FIRST.block_n // FIRST.warp_n
    assert run.report.count("ld.shared.v2", loop) == steps * warps * 4 * 2
    assert run.report.count("wgmma.mma_async", loop) == steps * warps * 4
    assert not run.report.count("ldmatrix") and not run.report.count("st.shared", loop)
    # The look-ups of 64 rows and 16 columns take 16 passes of the banks.
    found = run.report.wavefronts("ld.shared", loop).found
    assert found == steps * 4 * (FIRST.block_n // 64) * 16


WRONG = "wrong outputs"
DESCRIPTOR = "0x4000004000000000;"  # swizzle of 128 bytes, 8 rows every 1024 bytes

#: name -> (what finds it, pattern, replacement, how many of the places are changed; 0: all)
MUTATIONS = {
    "no fence of the async proxy": (
        FailureKind.PROXY_NOT_FENCED,
        r"fence\.proxy\.async[^;]*;",
        "",
        0,
    ),
    "no wgmma.fence": (FailureKind.REGISTER_NOT_FENCED, r"wgmma\.fence[^;]*;", "", 0),
    "rows overwritten too early": (
        FailureKind.REGISTER_IN_FLIGHT,
        r"wgmma\.wait_group\.sync\.aligned 1;",
        "",
        0,
    ),
    "sums read too early": (
        FailureKind.REGISTER_IN_FLIGHT,
        r"(wgmma\.wait_group\.sync\.aligned) 0;",
        r"\1 1;",
        0,
    ),
    "products never committed": (
        FailureKind.REGISTER_IN_FLIGHT,
        r"wgmma\.commit_group[^;]*;",
        "",
        0,
    ),
    "no barrier in the loop": (
        FailureKind.RACE,
        r"(wgmma\.wait[^;]* 1;(?s:.)*?)bar\.sync[^;]*;",
        r"\1",
        1,
    ),
    "copies waited for one group too few": (
        FailureKind.ASYNC_NOT_WAITED,
        r"(cp\.async\.wait_group) (\d)",
        lambda match: f"{match[1]} {int(match[2]) + 1}",
        0,
    ),
    "swizzle of 64 bytes": (WRONG, DESCRIPTOR, "0x8000004000000000;", 0),
    "no swizzle": (WRONG, DESCRIPTOR, "0x0000004000000000;", 0),
    "rows overlap": (WRONG, DESCRIPTOR, "0x4000002000000000;", 0),
    "the same 16 columns": (WRONG, DESCRIPTOR, rf"{DESCRIPTOR} and.b64 rows, rows, -7;", 0),
    "rows of A swapped": (
        WRONG,
        r"(wgmma\.mma_async[^}]*\}, \{)(%r\d+), (%r\d+),",
        r"\1\3, \2,",
        0,
    ),
    "halves of A swapped": (
        WRONG,
        r"(wgmma\.mma_async[^}]*\}, \{)(%r\d+), (%r\d+), (%r\d+), (%r\d+)",
        r"\1\4, \5, \2, \3",
        0,
    ),
    "outputs not transposed": (WRONG, r"movmatrix\.sync\.aligned\.m8n8\.trans\.b16", "mov.b32", 0),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_bug_is_found(name, monkeypatch):
    finder, pattern, replacement, count = MUTATIONS[name]
    configuration = configuration_of("wgmma", FIRST)
    text = compile_ptx(configuration, 90)
    broken, found = re.subn(pattern, replacement, text, count=count)
    assert found, f"no {pattern} in {configuration.name}"
    monkeypatch.setattr(support_cuda, "_ptx", lambda configuration, sm: broken)
    try:
        run = run_on_random_data(configuration, m=66, out_features=80, in_features=528)
    except KernelFailure as failure:
        assert failure.kind is finder, failure
        return
    assert finder == WRONG
    assert not run.relative_error <= tolerances.FP16_OUTPUT_RELATIVE


def assert_products_overlap(configuration, folder) -> None:
    """Check the assembler's remarks: no spill, and no wgmma waits for the one before.

    Where it cannot prove that registers are left alone, it puts a wait behind each (C7510 to C7514,
    "wgmma.mma_async instructions are serialized"), which costs a factor and fails no run.
    """
    (folder / "kernel.ptx").write_text(compile_ptx(configuration, 90))
    done = subprocess.run(
        [packaged_tool("ptxas"), "-arch=sm_90a", "-v", "kernel.ptx", "-o", "kernel.cubin"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr, configuration.name
    assert "serialized" not in done.stderr and "(C75" not in done.stderr, configuration.name


@pytest.mark.parametrize("tile", [FIRST, SMALL], ids=tile_name)
def test_the_assembler_lets_products_overlap(tile, tmp_path):
    assert_products_overlap(configuration_of("wgmma", tile), tmp_path)


@pytest.mark.toolchain
@pytest.mark.slow
@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=quantization_name)
@pytest.mark.parametrize("tile", WGMMA_TILES, ids=tile_name)
def test_products_of_every_kernel_overlap(tile, quantization, tmp_path):
    for epilogue, dtype in (("gate_residual", "float16"), ("gelu_tanh", "bfloat16")):
        configuration = configuration_of(
            "wgmma", tile, quantization, epilogue=epilogue, dtype=dtype
        )
        assert_products_overlap(configuration, tmp_path)


@pytest.mark.parametrize("sm", [sm for sm in SMS if sm != 90])
def test_other_architectures_are_refused(sm, tmp_path):
    configuration = configuration_of("wgmma", FIRST)
    for compile_kernel in (compile_ptx, compile_cubin):
        with pytest.raises(OptionError, match=f"sm 90 alone, found {sm}; choose gemm"):
            compile_kernel(configuration, sm, cache_folder=tmp_path)


def test_the_target_is_that_of_hopper_alone(tmp_path):
    configuration = configuration_of("wgmma", SMALL)
    ptx = compile_ptx(configuration, 90, cache_folder=tmp_path)
    assert re.search(r"^\.target sm_90a$", ptx, flags=re.M)
    assert re.search(r"^\.version 8\.0$", ptx, flags=re.M)
    assert compile_cubin(configuration, 90, cache_folder=tmp_path).startswith(b"\x7fELF")
