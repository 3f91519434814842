"""Operations and bytes of nodes, against counts by hand."""

import pytest

from vq4dit.runtime.profiling.work import hidden_weight_bytes, moved_bytes, operations
from vq4dit.runtime.session import NodeTime


def node(op, inputs, outputs, **more):
    return NodeTime(name="n", op=op, duration_us=1.0, inputs=inputs, outputs=outputs, **more)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (node("CodebookGemm", ((4, 16, 256), (3, 256, 4)), ((4, 16, 768),)), 2 * 64 * 256 * 768),
        (node("CodebookGemmResidual", ((2, 8, 64),), ((2, 8, 32),)), 2 * 16 * 64 * 32),
        (node("MatMul", ((2, 4, 16, 8), (2, 4, 8, 16)), ((2, 4, 16, 16),)), 2 * 8 * 16 * 8 * 16),
        (node("Gemm", ((2, 256), (512,)), ((2, 512),)), 2 * 2 * 256 * 512),
        (node("Conv", ((1, 48, 8, 8), (32, 48, 3, 3)), ((1, 32, 8, 8),)), 2 * 2048 * 48 * 9),
        (node("MultiHeadAttention", ((2, 5, 6),) * 3, ((2, 5, 6),)), 4 * 2 * 6 * 5 * 5),
        (node("Softmax", ((2, 3),), ((2, 3),)), 30),
        (node("Reshape", ((2, 3),), ((6,),)), 0),
        (node("Unheard", ((2, 3),), ((6,),)), 0),
        (node("Add", (), ()), 0),
    ],
)
def test_operations(made, expected):
    assert operations(made) == expected


def test_bytes_are_those_that_the_profiler_names():
    made = node("CodebookGemm", ((4, 256),), ((4, 64),), activation_bytes=4096, weight_bytes=777,
                output_bytes=1024)  # fmt: skip
    assert moved_bytes(made) == 4096 + 777 + 1024


def test_a_repacked_weight_is_counted_though_it_is_not_listed():
    repacked = node("Gemm", ((2, 256), (512,)), ((2, 512),), weight_bytes=2048)
    listed = node("MatMul", ((2, 256), (256, 512)), ((2, 512),), weight_bytes=4 * 256 * 512)
    assert hidden_weight_bytes(repacked) == 4 * 256 * 512
    half = node("Gemm", ((2, 256), (512,)), ((2, 512),), output_bytes=2 * 1024)
    assert hidden_weight_bytes(half) == 2 * 256 * 512
    assert hidden_weight_bytes(listed) == 0
    assert moved_bytes(repacked) == 2048 + 4 * 256 * 512
