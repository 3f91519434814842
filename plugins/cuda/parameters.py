"""A kernel's parameters as data, in the order of its declaration.

Inputs of the op first, then int32 scalars, then outputs: the order in which TensorRT's
ahead-of-time plugins pass them. No floats, no workspace.
"""

from __future__ import annotations

from dataclasses import dataclass

from .configuration import KernelConfiguration

INPUT, SCALAR, OUTPUT = "input", "int32", "output"


@dataclass(frozen=True, kw_only=True)
class KernelParameter:
    """One parameter.

    Args:
        name: of the op's input or output, or of the scalar.
        kind: "input" or "output" (a 64-bit pointer to global memory), or "int32".
    """

    name: str
    kind: str


#: Scalars: rows of x; O; I; R; rows of x that share one row of the gate.
_GEMM_SCALARS = ("m", "out_features", "in_features", "row_groups")
_DECODE_SCALARS = ("out_features", "in_features", "row_groups")


def kernel_parameters(configuration: KernelConfiguration) -> tuple[KernelParameter, ...]:
    """The parameters of the configuration's kernel, in order."""
    inputs: tuple[str, ...] = ("x", "codebook", "assignments", "bias")
    scalars: tuple[str, ...] = _GEMM_SCALARS
    output = "y"
    if configuration.kernel == "decode":
        inputs, scalars, output = ("codebook", "assignments"), _DECODE_SCALARS, "weight"
    elif configuration.epilogue == "gate_residual":
        inputs, scalars = (*inputs, "gate", "residual"), (*scalars, "sequence")
    return (
        *(KernelParameter(name=name, kind=INPUT) for name in inputs),
        *(KernelParameter(name=name, kind=SCALAR) for name in scalars),
        KernelParameter(name=output, kind=OUTPUT),
    )
