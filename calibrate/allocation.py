"""Which configuration each linear gets: the smallest sum of measured errors within a budget.

Solved exactly as a multiple-choice knapsack by dynamic programming over bytes (Kellerer, Pferschy &
Pisinger 2004, Knapsack Problems, section 11.5), so that a larger budget is never predicted worse,
and no uniform configuration that fits the budget is predicted better. Single errors add up only to
first order; what remains after training is smaller and told by the evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vq4dit.errors import OptionError
from vq4dit.model_config import ModelConfig

from .precision import Precision, fitting_bits, fixed_bytes, layer_bytes, num_weights

#: Name of the linears that an export writes as one node where all share one configuration.
_FUSED = "adaLN_modulation.1"

#: Steps that the budget is counted in at most; it is counted in whole bytes or a common divisor
#: where that gives fewer, as it does for every DiT of the paper.
_MAX_CELLS = 1 << 21

#: Relative output error of a linear by its bits.
Sensitivity = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One configuration of a group of linears: what it takes and what it costs."""

    bits: int
    bytes: int
    error: float


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """A configuration for every linear.

    `bits` by full name, None where the linear stays dense; `bits_per_weight` over all block
    linears, codebooks included; `predicted_error` is the sum of the sensitivities,
    `uniform_error` the same with one configuration for all linears that are free.
    """

    bits: Mapping[str, int | None]
    bits_per_weight: float
    predicted_error: float
    uniform_error: Mapping[int, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "uniform_error": {str(k): v for k, v in self.uniform_error.items()}}


def allocate_bits(
    config: ModelConfig, precision: Precision, sensitivity: Sensitivity
) -> Allocation:
    """Choose the bits of every linear that `keep` leaves free.

    Args:
        config: sizes of the model.
        precision: budget and exceptions.
        sensitivity: relative output error of each free linear, for each configuration that fits it.
    Raises:
        OptionError: the budget is out of the range that the model allows, which is told.
    """
    shapes = config.block_linear_shapes()
    pinned = precision.pinned(config)
    groups = free_groups(config, pinned)
    options = {
        name: _group_options(members, shapes, sensitivity) for name, members in groups.items()
    }
    budget = precision.budget(config, pinned)
    check_precision(config, precision)
    chosen = solve(options, budget)
    bits = {member: chosen[name].bits for name, members in groups.items() for member in members}
    everything = {name: pinned[name] if name in pinned else bits[name] for name in shapes}
    num_bytes = sum(layer_bytes(name, shapes[name], b) for name, b in everything.items())
    return Allocation(
        bits=everything,
        bits_per_weight=8 * num_bytes / num_weights(config),
        predicted_error=sum(option.error for option in chosen.values()),
        uniform_error=_uniform_errors(sensitivity),
    )


def free_groups(
    config: ModelConfig, pinned: Mapping[str, int | None]
) -> dict[str, tuple[str, ...]]:
    """Linears that get their bits together: name of the group -> full names.

    The adaLN linears of all blocks are one group, so that they can be exported as one node; not
    where one of them is pinned, which rules that out anyway. Every other linear is its own group.
    """
    names = list(config.block_linear_shapes())
    fused = tuple(name for name in names if name.endswith(_FUSED))
    if any(name in pinned for name in fused):
        fused = ()
    groups = {_FUSED: fused} if fused else {}
    return groups | {name: (name,) for name in names if name not in pinned and name not in fused}


def check_precision(config: ModelConfig, precision: Precision) -> None:
    """Refuse what this model cannot have: exceptions without a match, a budget out of its range.

    Raises:
        OptionError: naming what there is, for a budget the range in its own unit.
    """
    shapes = config.block_linear_shapes()
    pinned = precision.pinned(config)
    if not precision.has_budget:
        return
    groups = free_groups(config, pinned)
    if not groups:
        raise OptionError("keep decides every linear, so that no target can be met; give one only")
    taken = sum(layer_bytes(name, shapes[name], bits) for name, bits in pinned.items())
    smallest = largest = taken
    for members in groups.values():
        sizes = [_group_bytes(members, shapes, bits) for bits in _common_bits(members, shapes)]
        smallest, largest = smallest + min(sizes), largest + max(sizes)
    if smallest <= precision.budget(config, pinned) + taken <= largest:
        return
    kept = ", with what is kept," if pinned else ""
    if precision.target_bits is not None:
        low, high = (8 * size / num_weights(config) for size in (smallest, largest))
        raise OptionError(
            f"target bits is {precision.target_bits:g}; this model{kept} can have "
            f"{math.ceil(low * 1e3) / 1e3:.3f} to {math.floor(high * 1e3) / 1e3:.3f} bits per "
            "weight, codebooks included"
        )
    low, high = ((size + fixed_bytes(config)) / 1e6 for size in (smallest, largest))
    raise OptionError(
        f"target size is {(precision.target_bytes or 0) / 1e6:.3f} MB; the whole file{kept} can "
        f"have {math.ceil(low * 1e3) / 1e3:.3f} to {math.floor(high * 1e3) / 1e3:.3f} MB"
    )


def solve(options: Mapping[str, Sequence[Option]], budget: int) -> dict[str, Option]:
    """Choose one option of each group: the smallest sum of errors within the budget.

    Args:
        options: at least one per group.
        budget: bytes, at least the sum of each group's smallest.
    Returns:
        The options chosen; of equally good choices one of the smallest.
    Raises:
        OptionError: the budget is too small for any choice.
    """
    smallest = {name: min(option.bytes for option in of) for name, of in options.items()}
    spare = budget - sum(smallest.values())
    if spare < 0:
        raise OptionError(f"budget is {budget} bytes, needed {sum(smallest.values())} at least")
    spare = min(spare, sum(max(o.bytes for o in of) - smallest[n] for n, of in options.items()))
    extra = {n: np.array([o.bytes - smallest[n] for o in of]) for n, of in options.items()}
    unit = max(math.gcd(*(int(b) for of in extra.values() for b in of)), -(-spare // _MAX_CELLS), 1)
    best = np.zeros(spare // unit + 1)  # smallest error of the groups so far within so many units
    picks = []
    for name, of in options.items():
        table = np.full((len(of), len(best)), np.inf)
        for row, option, units in zip(table, of, -(-extra[name] // unit), strict=True):
            row[units:] = best[: max(len(best) - units, 0)] + option.error
        picks.append(table.argmin(axis=0).astype(np.int8))
        best = table.min(axis=0)
    place = int(best.argmin())
    chosen = {}
    for (name, of), pick in zip(reversed([*options.items()]), reversed(picks), strict=True):
        chosen[name] = of[pick[place]]
        place -= int(-(-extra[name][pick[place]] // unit))
    return {name: chosen[name] for name in options}


def _group_options(
    members: Sequence[str], shapes: Mapping[str, tuple[int, int]], sensitivity: Sensitivity
) -> list[Option]:
    """The configurations of a group, fewest bits first."""
    return [
        Option(
            bits=bits,
            bytes=_group_bytes(members, shapes, bits),
            error=sum(sensitivity[name][bits] for name in members),
        )
        for bits in _common_bits(members, shapes)
    ]


def _common_bits(members: Sequence[str], shapes: Mapping[str, tuple[int, int]]) -> tuple[int, ...]:
    """Configurations that fit every linear of a group, which all have one number of columns."""
    return fitting_bits(members[0], shapes[members[0]])


def _group_bytes(members: Sequence[str], shapes: Mapping[str, tuple[int, int]], bits: int) -> int:
    """Bytes of a group's assignments and codebooks."""
    return sum(layer_bytes(name, shapes[name], bits) for name in members)


def _uniform_errors(sensitivity: Sensitivity) -> dict[int, float]:
    """Sum of the errors with one configuration for all, for each that fits all."""
    fitting = set.intersection(*(set(errors) for errors in sensitivity.values()))
    return {bits: sum(e[bits] for e in sensitivity.values()) for bits in sorted(fitting)}
