"""Did TensorRT store decoded weights in a plan? Its size tells; nothing else is to be seen.

CodebookDecode has constant inputs only, so that a builder could run it once and store the result.
TensorRT's documentation names no such pass for plugins; nobody has looked at a plan yet.
"""

from __future__ import annotations

import logging
from pathlib import Path

_log = logging.getLogger(__name__)

#: A plan larger than its model by this share of the decoded weights holds them.
_FOLDED_SHARE = 0.5


def warn_if_folded(plan: Path, *, model_bytes: int, decoded_bytes: int) -> bool:
    """Log a warning if the plan holds decoded weights; whether it does.

    Args:
        plan: the step's plan.
        model_bytes: of the ONNX model that it was built from, weights packed.
        decoded_bytes: of all weights that the model decodes, together.
    """
    size = plan.stat().st_size
    is_folded = decoded_bytes > 0 and size > model_bytes + _FOLDED_SHARE * decoded_bytes
    if is_folded:
        _log.warning(
            "%s has %d bytes for a model of %d: TensorRT stored decoded weights in it; they take "
            "as much GPU memory; build with --linears gather to keep them packed",
            plan.name,
            size,
            model_bytes,
        )
    return is_folded
