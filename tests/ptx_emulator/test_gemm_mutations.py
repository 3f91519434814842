"""Bugs put into the PTX of our own GEMM and GEMV: each is found, by the check that is there for it.

test_mutations.py breaks a kernel in its source; here the very code that is shipped is broken.
"""

from __future__ import annotations

import re

import pytest
import support_cuda
import tolerances
from ptx import FailureKind, KernelFailure
from support_cuda import configuration_of, require_compiler, run_on_random_data

from vq4dit.plugins.cuda.configuration import GEMM_TILES, GEMV_TILES

require_compiler()

WRONG = "wrong outputs"
SIZES = {"out_features": 80, "in_features": 592}

_MMA_SOURCES = r"(mma\.[^{]*\{[^}]*\}, \{%r\d+, )(%r\d+), (%r\d+)"

#: name -> (what finds it, pattern, replacement, how many of the places are changed; 0: all)
MUTATIONS = {
    "no barrier in the loop": (FailureKind.RACE, r"bar\.sync[^;]*;", "", 1),
    "waits for one group too few": (
        FailureKind.ASYNC_NOT_WAITED,
        r"wait_group (\d)",
        lambda match: f"wait_group {int(match[1]) + 1}",
        0,
    ),
    "never commits": (FailureKind.ASYNC_NOT_WAITED, r"cp\.async\.commit_group;", "", 0),
    "fragments of x swapped": (WRONG, _MMA_SOURCES, r"\1\3, \2", 0),
    "one product left out": (WRONG, r"mma\.sync[^;]*;", "", 1),
    "rounds towards zero": (WRONG, r"cvt\.rn\.f16x2", "cvt.rz.f16x2", 0),
    "wrong lane of the shuffle": (WRONG, r"shfl\.sync\.bfly", "shfl.sync.up", 0),
    "no zeros past the columns": (
        FailureKind.OUT_OF_BOUNDS,
        r"(cp\.async\.cg[^;]*, 16, )%r\d+",
        r"\g<1>16",
        0,
    ),
    "codewords left out": (FailureKind.UNINITIALISED_SHARED, r"st\.shared\.v4[^;]*;", "", 0),
    "look-ups misaligned": (
        FailureKind.MISALIGNED,
        r"(ld\.shared\.v2[^;]*\[%r\d+)\]",
        r"\g<1>+4]",
        1,
    ),
    "outputs misaligned": (
        FailureKind.MISALIGNED,
        r"(st\.global\.v2[^;]*\[%rd\d+)\]",
        r"\g<1>+4]",
        0,
    ),
}


def run_broken(monkeypatch, configuration, pattern, replacement, count, **sizes):
    """Run the kernel with its PTX changed."""
    text = support_cuda._ptx(configuration, 80)
    broken, found = re.subn(pattern, replacement, text, count=count)
    assert found, f"no {pattern} in {configuration.name}"
    monkeypatch.setattr(support_cuda, "_ptx", lambda configuration, sm: broken)
    return run_on_random_data(configuration, **sizes)


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_bug_in_the_gemm_is_found(name, monkeypatch):
    finder, pattern, replacement, count = MUTATIONS[name]
    configuration = configuration_of("gemm", GEMM_TILES[3])
    try:
        run = run_broken(monkeypatch, configuration, pattern, replacement, count, m=66, **SIZES)
    except KernelFailure as failure:
        assert failure.kind is finder, failure
        return
    assert finder == WRONG
    assert not run.relative_error <= tolerances.FP16_OUTPUT_RELATIVE


@pytest.mark.parametrize(
    ("tile", "kernel"), [(GEMM_TILES[4], "gemm"), (GEMV_TILES[0], "gemv")], ids=["gemm", "gemv"]
)
def test_every_barrier_of_a_kernel_with_slices_is_needed(tile, kernel, monkeypatch):
    configuration = configuration_of(kernel, tile)
    text = support_cuda._ptx(configuration, 80)
    barriers = [match.span() for match in re.finditer(r"(?:bar|barrier)\.sync[^;]*;", text)]
    assert barriers
    unneeded = []
    for start, end in barriers:
        broken = text[:start] + text[end:]
        monkeypatch.setattr(support_cuda, "_ptx", lambda configuration, sm, ptx=broken: ptx)
        if not any(is_race_found(configuration, columns) for columns in COLUMNS):
            unneeded.append(text[:start].count("\n") + 1)
    assert not unneeded, f"barriers in lines {unneeded} can be left out"


#: Every stage's turn at being the last one, and more columns than a block of the GEMV holds.
COLUMNS = (1088, 1152, 1216, 1664)


def is_race_found(configuration, in_features: int) -> bool:
    """Whether the kernel fails, as one without a barrier should."""
    try:
        run_on_random_data(configuration, m=3, out_features=80, in_features=in_features)
    except KernelFailure as failure:
        assert failure.kind in (FailureKind.RACE, FailureKind.ASYNC_NOT_WAITED), failure
        return True
    return False
