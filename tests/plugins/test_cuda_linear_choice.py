"""Gather or decode: what the cost model chooses, and that it says what it would launch."""

import pytest

from vq4dit.plugins.cuda.codebook_format import CodebookFormat
from vq4dit.plugins.cuda.gpu_table import GPUS
from vq4dit.plugins.cuda.linear_choice import QuantizedLinear, choose_linear
from vq4dit.plugins.cuda.selection import choose_codebook, decode_then_gemm

BLOCKS = 28


def linear(m, n=4608, k=1152, **more):
    groups = more.pop("row_groups", 1)
    weight = CodebookFormat.from_bits(2, row_groups=groups)
    return QuantizedLinear(m=m, n=n, k=k, weight=weight, **more)


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
@pytest.mark.parametrize("m", [1, 64, 512, 4096])
def test_the_faster_way_by_a_clear_margin(gpu, m):
    given = linear(m)
    gathered = choose_codebook(gpu, m, 4608, 1152, given.weight)
    decoded = decode_then_gemm(gpu, m, 4608, 1152, given.weight)
    choice = choose_linear(gpu, given)
    assert choice.is_decoded == (decoded.seconds < 0.95 * gathered.seconds)
    assert choice.launch == (decoded if choice.is_decoded else gathered)
    assert choice.seconds <= gathered.seconds
    assert choose_linear(gpu, given, may_decode=False).launch == gathered


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_few_rows_are_gathered(gpu):
    """Decoding writes and reads sixteen bits per weight, gathering reads two."""
    for m in (1, 2, 16):
        stack = linear(m, 6912, row_groups=BLOCKS, count=BLOCKS)
        assert not choose_linear(gpu, stack).is_decoded
        assert not choose_linear(gpu, linear(m)).is_decoded


def test_many_rows_are_decoded_where_the_library_multiplies_faster():
    """Of the table's GPUs Thor's library is four times as fast as mma.sync."""
    assert choose_linear(GPUS["thor"], linear(4096)).is_decoded
    assert not choose_linear(GPUS["orin-agx"], linear(512)).is_decoded


def test_linears_of_one_x_are_gathered_in_one_launch_or_decoded_one_by_one():
    gpu = GPUS["thor"]
    stack = linear(2, 6912, row_groups=BLOCKS, count=BLOCKS)
    gathered = choose_linear(gpu, stack)
    assert (gathered.num_launches, gathered.launch.n) == (1, BLOCKS * 6912)
    many = choose_linear(gpu, linear(4096, 6912, row_groups=BLOCKS, count=BLOCKS))
    single = choose_linear(gpu, linear(4096, 6912))
    assert many.is_decoded and many.num_launches == BLOCKS
    assert many.launch == single.launch
    assert many.seconds == pytest.approx(BLOCKS * single.seconds)


def test_a_residual_moves_more_bytes():
    """Two float32 for each output in place of one float16, where memory binds."""
    seconds = [
        choose_linear(GPUS["l4"], linear(1 << 16, 4608, 64, is_residual=is_residual)).seconds
        for is_residual in (False, True)
    ]
    assert seconds[1] > 2 * seconds[0]
