"""Element types of weights and arithmetic in an exported model.

In float16 and bfloat16 models the residual stream, LayerNorm, softmax, guidance and the sampler's
update stay float32: a sum over the depth loses bits in the narrow types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from vq4dit.errors import BackendUnavailable, OptionError


@dataclass(frozen=True, kw_only=True)
class ElementType:
    """One element type.

    Args:
        option: what `--weights` takes.
        name: what manifests say.
        onnx_type: its number in `onnx.TensorProto`.
        bits: bits of one number.
    """

    option: str
    name: str
    onnx_type: int
    bits: int

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The NumPy dtype; BackendUnavailable where NumPy has no bfloat16."""
        if self.name != "bfloat16":
            return np.dtype(self.name)
        try:
            import ml_dtypes
        except ImportError:
            raise BackendUnavailable(
                "weights bf16 need the module ml_dtypes, which comes with newer versions of onnx; "
                "pip install ml_dtypes, or use --weights fp16"
            ) from None
        dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return dtype


FP32 = ElementType(option="fp32", name="float32", onnx_type=TensorProto.FLOAT, bits=32)
FP16 = ElementType(option="fp16", name="float16", onnx_type=TensorProto.FLOAT16, bits=16)
BF16 = ElementType(option="bf16", name="bfloat16", onnx_type=TensorProto.BFLOAT16, bits=16)

ELEMENT_TYPES = {element.option: element for element in (FP32, FP16, BF16)}


def element_type(option: str) -> ElementType:
    """The element type that `--weights` names; OptionError if there is none."""
    if option not in ELEMENT_TYPES:
        raise OptionError(f"weights are {option!r}, needed one of {', '.join(ELEMENT_TYPES)}")
    return ELEMENT_TYPES[option]
