"""Predicts one sampling step on a CPU: times are sums of few counted quantities, fitted by machine.

Each class of operations has a short list of quantities (multiply-adds, look-ups, table entries,
bytes) that follow from its sizes alone; a machine has one cost per quantity, in seconds, fitted to
measurements by least squares of relative errors, large ones cut (Huber 1964), with no cost below
zero. So the model can be held against sizes that it was not fitted to: `benchmarks/
cost_model_cpu.py` does, and reports the error.

Weights count as cold by `cold_share`: not at all where those of the whole run fit half of the
last-level cache, all of them where they do not fit it. Source of the quantities of quantized
linears: `plugins/cpu/README.md` (tables, look-ups, blocks of rows). One thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import OptionError
from vq4dit.plugins.layout import CONFIGURATIONS

from .step_ops import StepOp

#: How an engine's block linears run: dense float32, or codebooks in either accuracy.
IMPLEMENTATIONS = ("fp32", "fast", "exact")

#: Rows of a block in the CPU library, widest first, and the most rows done by permutation.
_BLOCK_ROWS = {"fast": (32, 16, 8), "exact": (16, 8)}
_FEW_ROWS = 4

#: Rows up to which a float32 product waits for its weights.
_FEW_DENSE_ROWS = 8

#: Relative errors beyond this count linearly: other programs make some measurements worthless.
_HUBER = 0.1
_REWEIGHTINGS = 10


@dataclass(frozen=True, kw_only=True)
class CpuMeasurement:
    """Seconds that one operation took, how its weight is stored, and how cold weights were."""

    op: StepOp
    implementation: str
    seconds: float
    cold_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CpuModel:
    """Costs in seconds per quantity.

    Args:
        calibration: what was measured.
        costs: class of operations, as `op_class` names it -> quantity -> seconds.
    """

    calibration: str
    costs: Mapping[str, Mapping[str, float]]

    def seconds(
        self, op: StepOp, implementation: str, *, cold_share: float = 0.0, bits: int = 2
    ) -> float:
        """Predicted time of one operation.

        Raises:
            OptionError: nothing of its class was measured, or the implementation is unknown.
        """
        name = op_class(op, implementation)
        if name not in self.costs:
            raise OptionError(
                f"{op.name}: the model has no costs of class {name!r}, it has "
                f"{', '.join(sorted(self.costs))}; fit it to measurements of this class"
            )
        costs = self.costs[name]
        return sum(
            amount * costs.get(quantity, 0.0)
            for quantity, amount in quantities(
                op, implementation, cold_share=cold_share, bits=bits
            ).items()
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "calibration": self.calibration,
            "costs": {name: dict(costs) for name, costs in self.costs.items()},
        }


def op_class(op: StepOp, implementation: str) -> str:
    """Operations of one class share their costs: such as "linear/fp32" or "attention".

    Raises:
        OptionError: unknown implementation.
    """
    if implementation not in IMPLEMENTATIONS:
        raise OptionError(
            f"implementation is {implementation!r}, needed one of {', '.join(IMPLEMENTATIONS)}"
        )
    if op.kind != "linear":
        return op.kind
    if op.name == "x_embedder":  # a convolution and three passes
        return "patches"
    if not op.is_quantized or implementation == "fp32":
        return "linear/fp32" + ("/few" if op.m <= _FEW_DENSE_ROWS else "")
    few = "/few" if implementation == "fast" and op.m <= _FEW_ROWS else ""
    return f"linear/{implementation}{few}"


def quantities(
    op: StepOp, implementation: str, *, cold_share: float = 0.0, bits: int = 2
) -> dict[str, float]:
    """What an operation does, in numbers; "call" is 1 for each operation.

    Activation "bare" means a dense product alone, as a benchmark runs it.
    """
    name = op_class(op, implementation)
    if op.kind == "attention":
        return {
            "call": 1,
            "multiply_adds": 2.0 * op.m * op.n * op.k,
            "softmax_elements": 1.0 * op.m * op.n * op.heads,
            "moved_elements": 1.0 * op.m * op.k,
        }
    if op.kind != "linear":
        return {"call": 1, "bytes": op.bytes_moved}
    n = op.n * op.count
    if name == "patches":
        return {"call": 1, "multiply_adds": 1.0 * op.m * n * op.k, "outputs": 1.0 * op.m * n}
    outputs = {f"{op.activation}_outputs": 1.0 * op.m * n}
    if op.is_residual:
        outputs["residual_outputs"] = 1.0 * op.m * n
    if name.startswith("linear/fp32"):
        return {
            # a bare product is one node, in an engine bias and more are nodes of their own
            "bare_call" if op.activation == "bare" else "call": op.count,
            "multiply_adds": 1.0 * op.m * n * op.k,
            "weights": 1.0 * n * op.k,
            "cold_weights": cold_share * n * op.k,
            "inputs": 1.0 * op.m * op.k * op.count,
        } | outputs
    return {"call": 1} | _table_quantities(op, n, implementation, bits) | outputs


def fit_cpu_model(
    measurements: Iterable[CpuMeasurement], calibration: str, *, bits: int = 2
) -> CpuModel:
    """Fit the costs of every class that was measured.

    Raises:
        OptionError: no measurement, or one whose time is not positive.
    """
    by_class: dict[str, list[CpuMeasurement]] = {}
    for measured in measurements:
        if not measured.seconds > 0:
            raise OptionError(f"{measured.op.name} took {measured.seconds} s, needed more than 0")
        by_class.setdefault(op_class(measured.op, measured.implementation), []).append(measured)
    if not by_class:
        raise OptionError("no measurement to fit a model to")
    return CpuModel(
        calibration=calibration,
        costs={name: _fit_class(rows, bits) for name, rows in sorted(by_class.items())},
    )


def cold_share(working_set_bytes: float, cache_bytes: float) -> float:
    """Share of the weights that a run reads from memory: 0 up to half of the cache, then to 1."""
    return min(1.0, max(0.0, 2 * working_set_bytes / cache_bytes - 1))


def weight_bytes(ops: Iterable[StepOp], implementation: str, *, bits: int = 2) -> float:
    """Bytes of the weights that one run of these operations reads on the CPU."""
    size, length = CONFIGURATIONS[bits]
    index_bits = 6 if size <= 64 else 8
    total = 0.0
    for op in ops:
        if op.kind == "linear":
            is_dense = implementation == "fp32" or not op.is_quantized
            total += op.n * op.count * op.k * (4.0 if is_dense else index_bits / length / 8)
    return total


def blocks_of_rows(m: int, implementation: str) -> dict[int, int]:
    """Rows of a block -> how many blocks the CPU library cuts m rows into.

    Full blocks of the widest kind; the rest goes into the narrowest one that holds it.
    """
    widths = _BLOCK_ROWS[implementation]
    blocks = {width: 0 for width in widths}
    blocks[widths[0]], rest = divmod(m, widths[0])
    if rest:
        blocks[min(width for width in widths if width >= rest)] += 1
    return blocks


def _table_quantities(op: StepOp, n: int, implementation: str, bits: int) -> dict[str, float]:
    """Look-ups and table entries, one vector of a block's rows each."""
    codebook_size, length = CONFIGURATIONS[bits]
    positions = ceil(op.k / length)
    if implementation == "fast" and op.m <= _FEW_ROWS:
        return {
            "few_lookups": 1.0 * op.m * positions * n,
            "few_entries": 1.0 * op.m * positions * codebook_size * op.row_groups,
            "words": 1.0 * positions * n,
        }
    found: dict[str, float] = {"transposed": 1.0 * op.m * (n + op.k)}
    for width, count in blocks_of_rows(op.m, implementation).items():
        found[f"lookups_{width}"] = 1.0 * count * positions * n
        found[f"entries_{width}"] = 1.0 * count * positions * codebook_size * op.row_groups
    return found


def _fit_class(rows: list[CpuMeasurement], bits: int) -> dict[str, float]:
    """Costs with the least sum of Huber's function of the relative errors, none below zero."""
    amounts = [
        quantities(row.op, row.implementation, cold_share=row.cold_share, bits=bits) for row in rows
    ]
    names = sorted({name for found in amounts for name, amount in found.items() if amount})
    matrix = np.array([[found.get(name, 0.0) for name in names] for found in amounts])
    relative = matrix / np.array([row.seconds for row in rows])[:, None]
    weights = np.ones(len(rows))
    for _ in range(_REWEIGHTINGS):
        costs = non_negative_least_squares(relative * weights[:, None], weights)
        errors = np.abs(relative @ costs - 1)
        weights = np.sqrt(np.minimum(1.0, _HUBER / np.maximum(errors, 1e-12)))
    return {name: float(cost) for name, cost in zip(names, costs, strict=True)}


def non_negative_least_squares(
    matrix: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """x >= 0 with the least |matrix x - target|, by the active-set method.

    Source: Lawson & Hanson 1974, Solving Least Squares Problems, chapter 23, algorithm NNLS.
    """
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    a = matrix / scale
    x = np.zeros(a.shape[1])
    passive = np.zeros(a.shape[1], bool)
    tolerance = 1e-10 * max(1.0, float(np.abs(a.T @ target).max()))
    for _ in range(10 * a.shape[1]):
        gradient = np.where(passive, -np.inf, a.T @ (target - a @ x))
        if gradient.max() <= tolerance:
            break
        passive[int(gradient.argmax())] = True
        while True:
            solution = np.zeros_like(x)
            solution[passive] = np.linalg.lstsq(a[:, passive], target, rcond=None)[0]
            if (solution[passive] > 0).all():
                x = solution
                break
            bad = passive & (solution <= 0)
            step = float((x[bad] / np.maximum(x[bad] - solution[bad], 1e-300)).min())
            x = x + step * (solution - x)
            passive &= x > 1e-15
            x[~passive] = 0.0
    unscaled: NDArray[np.float64] = x / scale
    return unscaled
