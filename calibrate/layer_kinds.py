"""The five kinds of linear in a DiT block, and a calibration's numbers summed up by kind."""

from __future__ import annotations

from dataclasses import dataclass

from .summary import CalibrationSummary

#: Name of a linear in its block -> short name of its kind, in order of execution.
KINDS = {
    "adaLN_modulation.1": "adaLN",
    "attn.qkv": "qkv",
    "attn.proj": "proj",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}


@dataclass(frozen=True, kw_only=True)
class KindTotal:
    """All quantized linears of one kind: how many, mean relative weight error, bits and bytes.

    `bits_per_weight` and `num_bytes` count codebooks and packed assignments.
    """

    kind: str
    num_layers: int
    weight_error: float
    bits_per_weight: float
    num_bytes: int


def kind_of(name: str) -> str:
    """Kind of a linear: "qkv" of "blocks.0.attn.qkv"; another linear's own name in its block."""
    local = name.split(".", 2)[-1]
    return KINDS.get(local, local)


def weights_of(summary: CalibrationSummary) -> dict[str, float]:
    """Number of weights of each quantized layer."""
    return {n: 8 * b / summary.bits_per_weight[n] for n, b in summary.layer_bytes.items()}


def totals_by_kind(summary: CalibrationSummary) -> list[KindTotal]:
    """One total per kind that occurs, in order of execution, and one of all as the last."""
    names = list(summary.layer_bytes)
    order = [*KINDS.values(), *(kind_of(name) for name in names)]
    totals = []
    for kind in dict.fromkeys(order):
        members = [name for name in names if kind_of(name) == kind]
        if members:
            totals.append(_total(kind, members, summary))
    return [*totals, _total("all", names, summary)] if names else []


def _total(kind: str, names: list[str], summary: CalibrationSummary) -> KindTotal:
    """Sum up some layers."""
    num_bytes = sum(summary.layer_bytes[name] for name in names)
    weights = weights_of(summary)
    return KindTotal(
        kind=kind,
        num_layers=len(names),
        weight_error=sum(summary.weight_error[name] for name in names) / len(names),
        bits_per_weight=8 * num_bytes / sum(weights[name] for name in names),
        num_bytes=num_bytes,
    )
