"""Whether a quantized linear is gathered by one kernel or decoded for a GEMM library.

The one place that decides it: the builder asks before it exports, and predictions of a step ask for
the same linears, so that they predict what would be built. Predicted, never measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .codebook_format import CodebookFormat
from .cost_terms import Prediction
from .efficiency import ASSUMED, Efficiencies
from .gpu_table import Gpu
from .selection import AHEAD_OF_TIME, choose_codebook, decode_then_gemm

#: Decoding must be predicted to take less than this share of the time: it needs memory for the
#: weight, and the model does not resolve smaller differences.
_WORTH_DECODING = 0.95

_HALF, _FLOAT = 2, 4


@dataclass(frozen=True, kw_only=True)
class QuantizedLinear:
    """Quantized linears of one x.

    Args:
        m, n, k: rows of x, out_features of each, in_features.
        weight: of all of them together.
        is_residual: gate and float32 residual stand behind it.
        count: how many there are: gathered they are one launch, decoded each is for itself.
    """

    m: int
    n: int
    k: int
    weight: CodebookFormat
    is_residual: bool = False
    count: int = 1

    @property
    def bytes_per_output(self) -> int:
        """What the epilogue reads and writes per element."""
        return 2 * _FLOAT if self.is_residual else _HALF


@dataclass(frozen=True, kw_only=True)
class LinearChoice:
    """How a linear runs: one of `launch`, or `num_launches` like it one after the other."""

    is_decoded: bool
    launch: Prediction
    num_launches: int = 1

    @property
    def seconds(self) -> float:
        """Of all of them."""
        return self.num_launches * self.launch.seconds


def choose_linear(
    gpu: Gpu,
    linear: QuantizedLinear,
    *,
    may_decode: bool = True,
    efficiencies: Efficiencies = ASSUMED,
) -> LinearChoice:
    """Gather, unless decoding is predicted to be clearly faster.

    Args:
        gpu: a GPU of the table.
        linear: its sizes.
        may_decode: False asks for the fastest way of gathering.
        efficiencies: shares of peak, assumed or calibrated.
    Raises:
        OptionError: no kernel fits on the GPU.   ShapeError: a size is not positive.
    """
    gathered = _gathered(gpu, linear, efficiencies)
    if not may_decode:
        return gathered
    decoded = _decoded(gpu, linear, efficiencies)
    return decoded if decoded.seconds < _WORTH_DECODING * gathered.seconds else gathered


def _gathered(gpu: Gpu, linear: QuantizedLinear, efficiencies: Efficiencies) -> LinearChoice:
    launch = choose_codebook(
        gpu, linear.m, linear.n * linear.count, linear.k, linear.weight, launcher=AHEAD_OF_TIME,
        bytes_per_output=linear.bytes_per_output, efficiencies=efficiencies,
    )  # fmt: skip
    return LinearChoice(is_decoded=False, launch=launch)


def _decoded(gpu: Gpu, linear: QuantizedLinear, efficiencies: Efficiencies) -> LinearChoice:
    single = replace(linear.weight, row_groups=linear.weight.row_groups // linear.count)
    launch = decode_then_gemm(
        gpu, linear.m, linear.n, linear.k, single,
        bytes_per_output=linear.bytes_per_output, efficiencies=efficiencies,
    )  # fmt: skip
    return LinearChoice(is_decoded=True, launch=launch, num_launches=linear.count)
