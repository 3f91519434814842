"""Sums the times of nodes up: by part of the DiT, by op, by layer, beside the machine's peaks.

Layers that stand at the same place of their blocks are of one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vq4dit.engines.manifest import Manifest
from vq4dit.runtime.session import NodeTime

from .parts import DECODER, OTHER, PARTS, kind_of, layer_of, parts_of
from .peaks import Peaks
from .work import hidden_weight_bytes, moved_bytes, operations


@dataclass(kw_only=True)
class _Sum:
    """What a group of nodes adds up to."""

    part: str
    duration_us: float = 0.0
    operations: int = 0
    bytes: int = 0
    weight_bytes: int = 0
    num_nodes: int = 0
    time_of_op: dict[str, float] = field(default_factory=dict)

    def add(self, node: NodeTime) -> None:
        """Count one node in."""
        self.duration_us += node.duration_us
        self.operations += operations(node)
        self.bytes += moved_bytes(node)
        self.weight_bytes += node.weight_bytes + hidden_weight_bytes(node)
        self.num_nodes += 1
        self.time_of_op[node.op] = self.time_of_op.get(node.op, 0.0) + node.duration_us

    def row(self, whole_ms: float, peaks: Peaks) -> dict[str, Any]:
        """Time, work and rates, ready for JSON; rates are None without time or known work."""
        seconds = self.duration_us / 1e6 if self.bytes else 0.0
        gflops = self.operations / seconds / 1e9 if seconds else None
        rate = self.bytes / seconds / 1e9 if seconds else None
        intensity = self.operations / self.bytes if self.bytes else 0.0
        return {
            "ms": self.duration_us / 1e3,
            "share": self.duration_us / 1e3 / whole_ms if whole_ms else 0.0,
            "num_nodes": self.num_nodes,
            "gflop": self.operations / 1e9,
            "mbytes": self.bytes / 1e6,
            "weight_bytes": self.weight_bytes,
            "gflops": gflops,
            "gbytes_per_s": rate,
            "flops_per_byte": intensity,
            "roof_share": _roof_share(gflops, rate, intensity, peaks),
        }


def breakdown(
    nodes: Sequence[NodeTime], *, whole_ms: float, peaks: Peaks, is_decoder: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Rows by part, by op, by layer and by kind of layer; `layers` in order, the others sorted.

    Args:
        nodes: of one run, in order.
        whole_ms: the run without profiler; shares are of it, so that they do not sum up to 1 but
            to the closure.
        peaks: of this machine with the engine's threads.
        is_decoder: all nodes are the decoder's.
    """
    parts = [DECODER] * len(nodes) if is_decoder else parts_of(node.name for node in nodes)
    tagged = list(zip(nodes, parts, strict=True))

    def rows(key: str, group: Callable[[NodeTime, str], str]) -> list[dict[str, Any]]:
        sums: dict[str, _Sum] = {}
        for node, part in tagged:
            sums.setdefault(group(node, part), _Sum(part=part)).add(node)
        return [{key: name, **_tags(key, s), **s.row(whole_ms, peaks)} for name, s in sums.items()]

    by_part = rows("part", lambda node, part: part)
    by_op = rows("op", lambda node, part: node.op)
    by_kind = rows("kind", lambda node, part: kind_of(layer_of(node.name, part)))
    return {
        "parts": sorted(by_part, key=lambda row: PARTS.index(row["part"])),
        "ops": sorted(by_op, key=lambda row: -row["ms"]),
        "kinds": sorted(by_kind, key=lambda row: -row["ms"]),
        "layers": rows("layer", lambda node, part: layer_of(node.name, part)),
    }


def weights_by_layer(manifest: Manifest) -> list[dict[str, Any]]:
    """Bytes of each linear of the blocks, by the manifest; one row for all the rest."""
    rows: list[dict[str, Any]] = []
    for name, (out_features, in_features) in manifest.model.block_linear_shapes().items():
        bits = manifest.bits_per_weight.get(name, 32.0)
        size = round(bits * out_features * in_features / 8)
        rows.append({"layer": name, "bits_per_weight": bits, "bytes": size})
    files = [manifest.files[role].bytes for role in ("step", "step_data") if role in manifest.files]
    rest = max(0, sum(files) - sum(row["bytes"] for row in rows))
    return [*rows, {"layer": OTHER, "bits_per_weight": None, "bytes": rest}]


def _tags(key: str, total: _Sum) -> dict[str, str]:
    """The part of a layer or kind and the op that takes most of its time."""
    if key not in ("layer", "kind"):
        return {}
    return {
        "part": total.part,
        "main_op": max(total.time_of_op, key=lambda op: total.time_of_op[op]),
    }


def _roof_share(
    gflops: float | None, rate: float | None, intensity: float, peaks: Peaks
) -> float | None:
    """Achieved over attainable, of arithmetic or of traffic, whichever the roof is made of."""
    if gflops is None or rate is None:
        return None
    if intensity >= peaks.ridge:
        return gflops / peaks.gflops
    return rate / peaks.gbytes_per_s
