"""Launches and parameters against the kernels' own declarations."""

import re

import pytest
from support_cuda import configuration_of

from vq4dit.errors import ShapeError
from vq4dit.plugins.cuda.compile import sources
from vq4dit.plugins.cuda.configuration import DECODE_TILES, GEMM_TILES, GEMV_TILES, WGMMA_TILES
from vq4dit.plugins.cuda.launch import launch_geometry, rows_per_block
from vq4dit.plugins.cuda.parameters import INPUT, OUTPUT, SCALAR, kernel_parameters

GEMM = configuration_of("gemm", GEMM_TILES[0])
GEMV = configuration_of("gemv", GEMV_TILES[1])
DECODE = configuration_of("decode", DECODE_TILES[0])
WGMMA = configuration_of("wgmma", WGMMA_TILES[1], epilogue="gate_residual")
RESIDUAL = configuration_of("gemm", GEMM_TILES[3], epilogue="gate_residual")


@pytest.mark.parametrize(
    ("configuration", "sizes", "grid"),
    [
        (GEMM, {"m": 512, "n": 3456, "k": 1152}, (4, 27, 1)),
        (GEMM, {"m": 513, "n": 3457, "k": 1152}, (5, 28, 1)),
        (GEMM, {"m": 512, "n": 3456, "k": 1152, "row_groups": 3}, (4, 27, 1)),
        (GEMM, {"m": 1, "n": 30, "k": 16, "row_groups": 3}, (1, 3, 1)),
        (GEMV, {"m": 8, "n": 28 * 6912, "k": 1152, "row_groups": 28}, (1, 28 * 108, 1)),
        (WGMMA, {"m": 512, "n": 4608, "k": 1152}, (3, 36, 1)),
        (DECODE, {"m": 1, "n": 1152, "k": 1152}, (3, 36, 1)),
        (DECODE, {"m": 99, "n": 1152, "k": 1152}, (3, 36, 1)),
    ],
)
def test_grids(configuration, sizes, grid):
    launch = launch_geometry(configuration, **sizes)
    assert launch.grid == grid
    assert launch.block == (configuration.threads, 1, 1)
    assert launch.shared_bytes == configuration.shared_bytes


def test_only_x_depends_on_m():
    assert (rows_per_block(GEMM), rows_per_block(GEMV), rows_per_block(DECODE)) == (128, 8, 0)
    for m in (1, 127, 128, 129, 5000):
        expected = (-(-m // rows_per_block(GEMM)), 9, 1)
        assert launch_geometry(GEMM, m=m, n=1152, k=64).grid == expected


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"m": 0, "n": 8, "k": 16}, "m = 0, n = 8 and row_groups = 1 must be positive"),
        ({"m": 1, "n": 8, "k": 16, "row_groups": 3}, "n a multiple of row_groups"),
        ({"m": 1, "n": 128 * 65536, "k": 16}, "need 65536 blocks, a grid has 65535"),
        ({"m": 1, "n": 8, "k": 20}, "in_features"),
    ],
)
def test_bad_sizes_are_named(sizes, message):
    with pytest.raises(ShapeError, match=message):
        launch_geometry(GEMM, **sizes)


def declared_parameters(configuration):
    """What stands between the parentheses of the kernel, with the epilogue's macros put in."""
    text = "".join(sources()[name] for name in ("epilogue.cuh", configuration.source))
    text = re.sub(r"//[^\n]*", "", text).replace("\\\n", "")
    has_residual = configuration.epilogue == "gate_residual"
    text = re.sub(
        r"#if VQ_EPILOGUE == 3\n(.*?)#else\n(.*?)#endif\n",
        lambda found: found.group(1 if has_residual else 2), text, flags=re.S,
    )  # fmt: skip
    macros = dict(re.findall(r"#define (VQ_\w+)[^\S\n]*([^\n]*)\n", text))
    declared = re.search(r"VQ_KERNEL_NAME\((.*?)\)\s*{", text, flags=re.S).group(1)
    while used := re.search(r"VQ_\w+", declared):
        declared = declared.replace(used.group(), macros[used.group()])
    return declared


@pytest.mark.parametrize(
    "configuration", [GEMM, GEMV, RESIDUAL, DECODE, WGMMA], ids=lambda c: c.name
)
def test_parameters_are_those_of_the_source(configuration):
    declared = declared_parameters(configuration)
    names = [re.split(r"[\s*]+", parameter.strip())[-1] for parameter in declared.split(",")]
    parameters = kernel_parameters(configuration)
    assert [parameter.name for parameter in parameters] == names
    kinds = [parameter.kind for parameter in parameters]
    assert kinds == sorted(kinds, key=[INPUT, SCALAR, OUTPUT].index)
    assert kinds[-2:] == [SCALAR, OUTPUT]
