"""The two ways in which a quantized linear stands in a graph, and who chooses between them.

`gather`: one node CodebookGemm or CodebookGemmResidual, which reads packed assignments as it
multiplies. `decode`: CodebookDecode writes the weight (O, I), standard nodes multiply by it; faster
where a GEMM library multiplies so much faster that it makes up for writing and reading the weight.
Which is faster where is not known here: whoever exports passes a function that says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vq4dit.plugins.layout import Layout

GATHER, DECODE = "gather", "decode"
WAYS = (GATHER, DECODE)


@dataclass(frozen=True, kw_only=True)
class LinearUse:
    """A quantized linear as a step uses it.

    Args:
        name: of the layer.
        rows_per_sample: rows of x for each sample of the batch.
        out_features: O; of `count` linears together.
        row_groups: R, codebooks of them together.
        layout: of the assignments, in the order of the target's kernels.
        is_residual: gate and residual stand behind it.
        count: linears of the same x that one node would hold (adaLN of all blocks). Decoded, each
            of them stands for itself.
    """

    name: str
    rows_per_sample: int
    out_features: int
    row_groups: int
    layout: Layout
    is_residual: bool = False
    count: int = 1


#: One of WAYS for a linear.
ChooseWay = Callable[[LinearUse], str]


def always(way: str) -> ChooseWay:
    """The function that chooses the same way for every linear."""
    return lambda use: way
