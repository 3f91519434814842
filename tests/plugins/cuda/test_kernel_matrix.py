"""Every kernel there is: 20 minutes of one core, so only on request.

    pytest -m "toolchain and slow" tests/plugins/cuda/test_kernel_matrix.py

Every combination of kernel, tile, quantization, element type and epilogue runs once, at sizes that
are multiples of nothing; every tile with every quantization at all sizes; whole rows of DiT-XL/2's
layers with every tile; and the other architectures where their PTX differs.
"""

import pytest
from support_cuda import (
    DIT_LAYERS,
    QUANTIZATIONS,
    check,
    configuration_of,
    quantization_name,
    require_compiler,
    tile_name,
)

from vq4dit.plugins.cuda.compile import SMS, compile_ptx
from vq4dit.plugins.cuda.configuration import DTYPES, EPILOGUES, ONLY_SM, TILES

require_compiler()
pytestmark = [pytest.mark.toolchain, pytest.mark.slow]

#: Rows of x, O, I, R, rows of one sample.
AWKWARD = (
    (63, 130, 352, 2, 21),
    (1, 100, 96, 1, 1),
    (7, 15, 32, 1, 7),
    (65, 72, 1152, 1, 13),
)
ALL_TILES = [(kernel, tile) for kernel, tiles in TILES.items() for tile in tiles]
each_tile = pytest.mark.parametrize(
    ("kernel", "tile"), ALL_TILES, ids=[f"{k}-{tile_name(t)}" for k, t in ALL_TILES]
)
each_quantization = pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=quantization_name)


@pytest.fixture(autouse=True)
def on_request(request):
    if "slow" not in request.config.option.markexpr:
        pytest.skip('20 minutes: run with -m "toolchain and slow"')


def epilogues(kernel):
    return ("none",) if kernel == "decode" else EPILOGUES


def check_sizes(configuration, sizes, sm=None):
    m, out_features, in_features, row_groups, sequence = sizes
    check(
        configuration,
        m=m,
        out_features=out_features,
        in_features=in_features,
        row_groups=row_groups,
        sequence=sequence,
        sm=sm,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@each_quantization
@each_tile
def test_every_combination(kernel, tile, quantization, dtype):
    for epilogue in epilogues(kernel):
        check_sizes(
            configuration_of(kernel, tile, quantization, dtype=dtype, epilogue=epilogue),
            (9, 44, 96, 2, 3),
        )


@each_quantization
@each_tile
def test_every_size(kernel, tile, quantization):
    for sizes in AWKWARD:
        check_sizes(configuration_of(kernel, tile, quantization), sizes)


@pytest.mark.parametrize("layer", DIT_LAYERS)
@each_tile
def test_layers(kernel, tile, layer):
    check_sizes(configuration_of(kernel, tile), DIT_LAYERS[layer])


@each_tile
def test_other_architectures(kernel, tile):
    """The compiler's PTX for an architecture is run as well where it differs beyond its header."""
    if kernel in ONLY_SM:
        pytest.skip(f"made for sm {ONLY_SM[kernel]} alone")
    for quantization in QUANTIZATIONS[:5]:
        for epilogue in epilogues(kernel):
            configuration = configuration_of(kernel, tile, quantization, epilogue=epilogue)
            seen = [body(configuration, 80)]
            for sm in SMS[1:]:
                if body(configuration, sm) not in seen:
                    seen.append(body(configuration, sm))
                    check_sizes(configuration, (9, 44, 96, 2, 3), sm)
            assert len(seen) <= 3, "more variants than the fast tests' architectures stand for"


def body(configuration, sm):
    """The PTX without the lines that name architecture and version."""
    lines = compile_ptx(configuration, sm).splitlines()
    return [line for line in lines if not line.startswith((".target", ".version", "//"))]
