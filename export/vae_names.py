"""Names of a VAE decoder's tensors in the layouts that files have, and in diffusers' own."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Name in folders written before diffusers 0.18 -> today's.
_OLD_ATTENTION = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}

#: Name in the latent-diffusion layout -> diffusers' name; decoder.up is counted from the other end.
_LATENT_DIFFUSION = (
    (r"decoder\.mid\.block_1\.", r"decoder.mid_block.resnets.0."),
    (r"decoder\.mid\.block_2\.", r"decoder.mid_block.resnets.1."),
    (r"decoder\.mid\.attn_1\.norm\.", r"decoder.mid_block.attentions.0.group_norm."),
    (r"decoder\.mid\.attn_1\.([qkv])\.", r"decoder.mid_block.attentions.0.to_\1."),
    (r"decoder\.mid\.attn_1\.proj_out\.", r"decoder.mid_block.attentions.0.to_out.0."),
    (r"decoder\.up\.(\d+)\.block\.", r"decoder.up_blocks.\1.resnets."),
    (r"decoder\.up\.(\d+)\.upsample\.conv\.", r"decoder.up_blocks.\1.upsamplers.0.conv."),
    (r"decoder\.norm_out\.", r"decoder.conv_norm_out."),
    (r"\.nin_shortcut\.", r".conv_shortcut."),
)
_UP = re.compile(r"decoder\.up\.(\d+)\.")
_PREFIX_IN_CHECKPOINT = "first_stage_model."
_TAESD = re.compile(r"\d+\.")


def stored_names(names: Iterable[str]) -> dict[str, str]:
    """diffusers' name -> name in the file, for a file that holds these names.

    Known are diffusers' layout, also with the attention's names of before 0.18; the
    latent-diffusion layout of the original Stable Diffusion VAEs, alone or below
    `first_stage_model.` in a whole checkpoint; and TAESD's decoder, whose layers have numbers one
    above diffusers', since clamping is layer 0. Other names stay what they are.
    """
    stored = {name: name for name in names}
    if any(name.startswith(_PREFIX_IN_CHECKPOINT) for name in stored):
        size = len(_PREFIX_IN_CHECKPOINT)
        stored = {n[size:]: n for n in stored if n.startswith(_PREFIX_IN_CHECKPOINT)}
    if {"1.weight", "3.conv.0.weight"} <= set(stored):
        return {_from_taesd(name): path for name, path in stored.items()}
    ups = [int(found[1]) for name in stored if (found := _UP.match(name))]
    if ups:
        last = max(ups)
        return {_from_latent_diffusion(name, last): path for name, path in stored.items()}
    return {_from_old_attention(name): path for name, path in stored.items()}


def _from_taesd(name: str) -> str:
    """E.g. 3.conv.0.weight -> decoder.layers.2.conv.0.weight."""
    if not _TAESD.match(name):
        return name
    number, rest = name.split(".", 1)
    return f"decoder.layers.{int(number) - 1}.{rest}"


def _from_latent_diffusion(name: str, last: int) -> str:
    """E.g. decoder.up.3.block.0.conv1.bias -> decoder.up_blocks.0.resnets.0.conv1.bias."""
    name = _UP.sub(lambda up: f"decoder.up.{last - int(up[1])}.", name)
    for pattern, ours in _LATENT_DIFFUSION:
        name = re.sub(pattern, ours, name)
    return name


def _from_old_attention(name: str) -> str:
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name
