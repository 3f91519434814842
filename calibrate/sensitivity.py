"""How much the model suffers when one linear is quantized to so many bits.

Linears of one kind are compared by the error of one step with each of them quantized alone
(single_errors.py). Kinds are compared by where trajectories end (drift.py): errors of some kinds
add up over the steps and those of others do not, up to 20 times more drift for the same error of
one step on the demonstration model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .drift import Variant, kind_of, measure_drift
from .executor import Executor
from .job import Job
from .progress import Progress
from .single_errors import load_quick_layers, measure_single_errors
from .trajectory import Trajectories
from .workspace import Workspace


def measure_sensitivity(
    job: Job,
    trajectories: Trajectories,
    candidates: Mapping[str, Sequence[int]],
    *,
    executor: Executor,
    workspace: Workspace,
    progress: Progress,
) -> dict[str, dict[int, float]]:
    """Measure every linear at each of its candidate configurations.

    Args:
        job: full-precision model; the recipe says how assignments start and how many points there
            are.
        trajectories: the teacher's points.
        candidates: full name -> bits to try.
        executor: measures blocks, which do not depend on each other.
        workspace: keeps each finished block.
        progress: stages "sensitivity" and "drift".
    Returns:
        Full name -> bits -> its share of the relative squared error of final latents.
    """
    single = measure_single_errors(
        job, trajectories, candidates, executor=executor, workspace=workspace, progress=progress
    )
    joint = measure_drift(
        job,
        sorted({(kind_of(name), b) for name, bits in candidates.items() for b in bits}),
        lambda index: load_quick_layers(job, workspace, candidates, index),
        workspace=workspace,
        progress=progress,
    )
    return apportioned(single, joint)


def apportioned(
    single: Mapping[str, Mapping[int, float]], joint: Mapping[Variant, float]
) -> dict[str, dict[int, float]]:
    """Share each kind's joint error out among its linears in proportion to their single errors.

    Args:
        single: full name -> bits -> error with this linear alone.
        joint: (kind, bits) -> error with all linears of the kind.
    """
    members: dict[Variant, list[float]] = {}
    for name, errors in single.items():
        for bits, error in errors.items():
            members.setdefault((kind_of(name), bits), []).append(error)

    def share(variant: Variant, error: float) -> float:
        of_kind = members[variant]
        total = sum(of_kind)
        return error / total if total > 0 else 1 / len(of_kind)

    return {
        name: {
            bits: joint[kind_of(name), bits] * share((kind_of(name), bits), error)
            for bits, error in errors.items()
        }
        for name, errors in single.items()
    }
