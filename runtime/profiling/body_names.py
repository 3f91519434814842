"""Names for the nodes of function bodies, which ONNX Runtime inlines without saying whose.

In the optimised graph the tensors of one inlined body share a prefix, and one of its nodes reads
the codebook, assignments or bias of the linear that the body stands for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from vq4dit.runtime.session import NodeTime

from .onnx_wire import WireNode
from .parts import part_of

_INSTANCE = re.compile(r"_inlfunc_\w+?_(?=vq\d+$)")
_TENSOR_OF_LINEAR = re.compile(r"(.+)\.(?:codebook|assignments|bias)$")


def named_after_linears(nodes: Sequence[NodeTime], graph: Sequence[WireNode]) -> list[NodeTime]:
    """Nodes whose name tells nothing get that of their linear with the op behind it.

    Args:
        nodes: one run, in order.
        graph: the optimised graph's nodes, in the same order; if they are others, nothing changes.
    """
    if [node.op for node in nodes] != [node.op for node in graph]:
        return list(nodes)
    linears: dict[str, str] = {}
    for place in graph:
        instance, linear = _instance(place), _linear(place)
        if instance and linear:
            linears.setdefault(instance, linear)
    named = []
    for node, place in zip(nodes, graph, strict=True):
        owner = linears.get(_instance(place) or "") or _linear(place) or _exported(place)
        is_silent = part_of(node.name) is None
        named.append(replace(node, name=f"{owner}.{node.op}") if owner and is_silent else node)
    return named


def _instance(node: WireNode) -> str | None:
    """Prefix of the body's tensors that a node writes."""
    found = (_INSTANCE.match(name) for name in node.outputs)
    return next((match[0] for match in found if match), None)


def _exported(node: WireNode) -> str | None:
    """A tensor that the node writes and that still has the name of an exported node."""
    return next((name for name in node.outputs if part_of(name) is not None), None)


def _linear(node: WireNode) -> str | None:
    """The linear whose tensors a node reads."""
    found = (_TENSOR_OF_LINEAR.match(name) for name in node.inputs)
    return next((match[1] for match in found if match), None)
