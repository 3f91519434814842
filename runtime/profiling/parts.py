"""From the name of a node to the part of the DiT, and to the layer, that it belongs to.

Names are those that `export` gives its nodes. ONNX Runtime appends to the names of nodes that it
fuses or moves to another layout, and names the nodes that it adds after their op.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ATTENTION = "attention"
MLP = "MLP"
ADALN = "adaLN"
EMBEDDERS = "embedders"
FINAL_LAYER = "final layer"
SAMPLER = "sampler update"
DECODER = "decoder"
OTHER = "other"

#: In the order in which reports list them.
PARTS = (ATTENTION, MLP, ADALN, EMBEDDERS, FINAL_LAYER, SAMPLER, DECODER, OTHER)

#: First pattern that the cleaned name begins with -> part.
_RULES = tuple(
    (re.compile(pattern), part)
    for pattern, part in (
        (r"blocks\.\d+\.attn\b", ATTENTION),
        (r"blocks\.\d+\.mlp\b", MLP),
        (r"blocks\.(\d+\.)?(adaLN_modulation|modulation|norm[12])\b", ADALN),
        (r"(x|t|y)_embedder\b|pos_embed\b|condition\b", EMBEDDERS),
        (r"final_layer\b|unpatchify\b|model_output$", FINAL_LAYER),
        (r"guidance\b|update\b|model_output\.parts|x_start$|latent_out$", SAMPLER),
        (r"decoder\b|post_quant_conv\b|unscaled$|shifted$|image$", DECODER),
    )
)

#: What ONNX Runtime's profiler and optimisers append.
_SUFFIX = re.compile(r"(_kernel_time|_nchwc|_token_\d+|/.*)$")

#: What stands between the names of nodes that a backend has fused.
_BETWEEN = re.compile(r"[+,\s\[\]{}()]+|\.\.\.")

#: Linears of the exported graph: their product, bias and activation are one layer.
_LINEAR = re.compile(
    r"(blocks\.(?:\d+\.)?adaLN_modulation\.1|blocks\.\d+\.(?:attn\.qkv|attn\.proj|mlp\.fc[12])"
    r"|t_embedder\.mlp\.[02]|x_embedder\.proj|final_layer\.(?:adaLN_modulation\.1|linear))\b"
)
_DECODER_MODULE = re.compile(r"(decoder\.(?:mid_block|up_blocks\.\d+)\.\w+\.\d+)\b")
_GROUP = re.compile(r"(blocks\.\d+\.(?:attn|mlp|norm1|norm2)|blocks\.(?:\d+\.)?modulation)\b")


def clean_name(name: str) -> str:
    """The exported node's name, without what ONNX Runtime appended."""
    while True:
        shorter = _SUFFIX.sub("", name)
        if shorter == name:
            return name
        name = shorter


def part_of(name: str) -> str | None:
    """The part of the DiT that a node's name tells, None where it tells nothing.

    A layer that a backend fused from several nodes ("a + b") counts where its first node does.
    """
    for cleaned in _pieces(name):
        for pattern, part in _RULES:
            if pattern.match(cleaned):
                return part
    return None


def parts_of(names: Iterable[str], *, default: str = OTHER) -> list[str]:
    """The part of each node of one run, in order; nodes without a telling name join the one before.

    default: part of such nodes at the begin.
    """
    parts, part = [], default
    for name in names:
        part = part_of(name) or part
        parts.append(part)
    return parts


def kind_of(layer: str) -> str:
    """The layer with a star for the number of its block: what all blocks have."""
    return re.sub(r"^blocks\.\d+\.", "blocks.*.", layer)


def layer_of(name: str, part: str) -> str:
    """The layer that a node belongs to: a linear, the rest of attention, a norm, or its part."""
    cleaned = next((piece for piece in _pieces(name) if part_of(piece) is not None), "")
    for pattern in (_LINEAR, _DECODER_MODULE, _GROUP):
        found = pattern.match(cleaned)
        if found:
            return found[1]
    return part


def _pieces(name: str) -> list[str]:
    """Names of the nodes that a backend has joined, such as "a + b" or "{ForeignNode[a...b]}"."""
    return [clean_name(piece) for piece in _BETWEEN.split(name) if piece]
