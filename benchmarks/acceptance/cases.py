"""What stage A measures: the layers of DiT-XL/2, and awkward ones, at the usual numbers of rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from vq4dit.plugins import schema
from vq4dit.plugins.cuda.configuration import KernelConfiguration
from vq4dit.plugins.layout import (
    CONFIGURATIONS,
    AssignmentLayout,
    GroupOrder,
    Layout,
    default_group_order,
)
from vq4dit.plugins.tensorrt.kernel_choice import kernels_for


@dataclass(frozen=True, kw_only=True)
class Case:
    """One node at one number of rows; every kernel that can run it is measured.

    Args:
        op: "CodebookGemm", "CodebookGemmResidual" or "CodebookDecode".
        m, n, k: rows of x, out_features, in_features.
        layer: name of the layer's shape, for people.
        bits: named configuration.
        dtype: "float16" or "bfloat16".
        activation: as in the schema.
        row_groups: R.
        sequence: rows of one sample, for the gate.
        order: column order, None for the default.
    """

    op: str
    m: int
    n: int
    k: int
    layer: str
    bits: int = 2
    dtype: str = "float16"
    activation: str = "none"
    row_groups: int = 1
    sequence: int = 256
    order: GroupOrder | None = None

    @property
    def name(self) -> str:
        """Unique, and stable: finished cases are found again by it."""
        parts = [self.op, self.layer, f"m{self.m}", f"{self.bits}bit", self.dtype]
        parts += [self.activation] if self.activation != "none" else []
        parts += [self.order.name.lower()] if self.order is not None else []
        return "-".join(parts)

    @property
    def layout(self) -> Layout:
        """The layer's layout."""
        size, length = CONFIGURATIONS[self.bits]
        order = default_group_order(self.k, length) if self.order is None else self.order
        return Layout(
            in_features=self.k,
            codebook_size=size,
            sub_vector_len=length,
            group_order=order,
            assignment_layout=AssignmentLayout.MMA_LANES,
        )

    @property
    def kernels(self) -> tuple[KernelConfiguration, ...]:
        """Every kernel that can run it on any GPU."""
        return self.kernels_on(None)

    def kernels_on(self, sm: int | None) -> tuple[KernelConfiguration, ...]:
        """Every kernel that can run it on a GPU: those for this architecture alone as well."""
        return kernels_for(
            schema.OPS[self.op], self.layout, dtype=self.dtype, activation=self.activation, sm=sm
        )


_GEMM, _RESIDUAL, _DECODE = schema.OPS

#: DiT-XL/2: name -> (O, I).
LAYERS = {
    "qkv": (3456, 1152),
    "proj": (1152, 1152),
    "fc1": (4608, 1152),
    "fc2": (1152, 4608),
    "adaln": (6912, 1152),
}
_TOKEN_LAYERS = ("qkv", "proj", "fc1", "fc2")
_BLOCKS = 28


def all_cases() -> tuple[Case, ...]:
    """The cases in order of importance: a run that is cut short has the main figures."""
    cases = [_layer(_GEMM, name, m) for m, name in product((512, 64, 4096, 256), _TOKEN_LAYERS)]
    cases += [_layer(_GEMM, "adaln", m) for m in (1, 2, 4, 8, 16)]
    cases += [_stacked(m) for m in (2, 16)]
    cases += [_layer(_RESIDUAL, name, 512) for name in ("proj", "fc2")]
    cases += [_layer(_GEMM, "fc1", 512, activation=a) for a in ("gelu_tanh", "silu")]
    cases += [_layer(_DECODE, name, 0) for name in _TOKEN_LAYERS]
    cases += [_layer(_GEMM, name, 512, dtype="bfloat16") for name in _TOKEN_LAYERS]
    cases += [_layer(_GEMM, "qkv", m, bits=bits) for bits in (1, 3, 4) for m in (2, 512)]
    cases += [_layer(_DECODE, "qkv", 0, bits=bits) for bits in (1, 3, 4)]
    cases += [_layer(_GEMM, "qkv", m, order=GroupOrder.CONTIGUOUS) for m in (2, 512)]
    return tuple(cases + _awkward())


def _layer(op: str, layer: str, m: int, **changed: object) -> Case:
    n, k = LAYERS[layer]
    return Case(op=op, m=m, n=n, k=k, layer=layer, **changed)  # type: ignore[arg-type]


def _stacked(m: int) -> Case:
    """The modulations of all blocks in one launch."""
    n, k = LAYERS["adaln"]
    return Case(op=_GEMM, m=m, n=_BLOCKS * n, k=k, layer="adaln-x28", row_groups=_BLOCKS)


def _awkward() -> list[Case]:
    """Rows and columns that fill no tile, odd group sizes, one row."""
    return [
        Case(op=_GEMM, m=1, n=8, k=16, layer="tiny"),
        Case(op=_GEMM, m=77, n=200, k=1072, layer="ragged"),
        Case(op=_GEMM, m=131, n=3 * 130, k=1152, layer="thirds", row_groups=3),
        Case(op=_RESIDUAL, m=3 * 50, n=136, k=144, layer="short", sequence=50),
        Case(op=_DECODE, m=0, n=202, k=1072, layer="ragged"),
    ]
