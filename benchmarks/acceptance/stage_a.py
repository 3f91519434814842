"""Stage A: every kernel, alone. Needs a driver and NumPy; cuBLAS for the baseline."""

from __future__ import annotations

from functools import partial

from .cases import Case, all_cases
from .images import load_image
from .kernels import measure_case
from .layer import random_layer
from .steps import Rows, Setting, Step, open_device

#: What machine code is compiled for where there is no GPU to ask.
_PREPARED_SM = 80


def stage_a_steps() -> tuple[Step, ...]:
    """One step per case."""
    return tuple(
        Step(
            name=f"kernels/{case.name}",
            stage="A",
            needs=("gpu",),
            prepare=partial(_prepare, case),
            measure=partial(_measure, case),
        )
        for case in all_cases()
    )


def _prepare(case: Case, setting: Setting) -> str:
    """Compile the kernels and work out the answer; the largest case only compiles."""
    for kernel in case.kernels:
        load_image(setting.images, kernel, _PREPARED_SM)
    text = f"{len(case.kernels)} kernels compiled for sm_{_PREPARED_SM}"
    if case.n * case.k > _LARGEST_PREPARED:
        return text
    layer = random_layer(case)
    return f"{text}, answer worked out for {layer.expected.size} outputs"


_LARGEST_PREPARED = 16 << 20


def _measure(case: Case, setting: Setting) -> Rows:
    return measure_case(case, open_device(), setting.images)
