"""decode.cu in the PTX emulator: the weight bit by bit; see test_gemm.py for what a run checks."""

import pytest
from support_cuda import (
    QUANTIZATIONS,
    check,
    configuration_of,
    quantization_name,
    require_compiler,
)

from vq4dit.plugins.cuda.configuration import DECODE_TILES, DTYPES
from vq4dit.plugins.layout import GroupOrder

require_compiler()


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=quantization_name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_weight_is_exact(quantization, dtype):
    configuration = configuration_of("decode", DECODE_TILES[0], quantization, dtype=dtype)
    run = check(configuration, out_features=74, in_features=352, row_groups=2)
    if configuration.group_order != GroupOrder.CONTIGUOUS:
        assert run.report.wavefronts().conflicts == 0


@pytest.mark.parametrize(("out_features", "in_features"), [(1, 16), (33, 1152), (64, 400)])
def test_sizes_at_the_edges(out_features, in_features):
    configuration = configuration_of("decode", DECODE_TILES[0])
    check(configuration, out_features=out_features, in_features=in_features)
