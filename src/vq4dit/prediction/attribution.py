"""Which operation of the predicted step a measured node of an exported engine belongs to.

The exported graph names its nodes after their layer, with what they do behind it; the longest
operation's name that a node's name begins with is its operation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vq4dit.runtime.session import NodeTime

from .step_ops import StepOp

#: Begins of node names that are not those of an operation -> operation that they belong to.
_ALIASES = (
    (re.compile(r"blocks\.modulation\b|blocks\.\d+\.(adaLN_)?modulation\b"),
     "blocks.adaLN_modulation.1"),
    (re.compile(r"final_layer\.modulation\b"), "final_layer.adaLN_modulation.1"),
    (re.compile(r"(y_embedder|t_embedder\.(?!mlp))"), "condition"),
    (re.compile(r"(pos_embed)\b"), "x_embedder"),
    (re.compile(r"(unpatchify|guidance|model_output|latent_out|x_start)\b"), "update"),
)  # fmt: skip


def seconds_by_op(ops: Sequence[StepOp], nodes: Iterable[NodeTime]) -> dict[str, float]:
    """Operation -> seconds of its nodes; a node without a telling name joins the one before."""
    seconds = {op.name: 0.0 for op in ops}
    current = ops[0].name
    for node in nodes:
        current = _op_of(node.name, seconds) or current
        seconds[current] += node.duration_us / 1e6
    return seconds


def _op_of(name: str, known: dict[str, float]) -> str | None:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        begin = ".".join(parts[:length])
        if begin in known:
            return begin
    for pattern, op in _ALIASES:
        if pattern.match(name):
            return op
    return None
