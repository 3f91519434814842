"""Which rows the calibration study has, and what identifies each: names, settings, hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import vq4dit.calibrate
from vq4dit.calibrate.recipe import RECIPES, Recipe

#: Rows that are no recipe of the calibration: full precision, and rounding without codebooks.
FULL_PRECISION, ROUNDING = "fp", "rtn"
OURS = "vq4dit"

#: Rows at 2 bits that get two seeds and, besides the first, every other number of steps.
MAIN_RECIPES = ("kmeans", "paper", "reference", OURS)
MAIN_SEEDS = (0, 1)

OTHER_BITS = (1, 3, 4)
CANDIDATES = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model of the study, drawn with so many DDIM steps.

    `candidates` is 1 where nothing is left open, 0 where there is no codebook.
    """

    recipe: str
    bits: int
    candidates: int
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """What `--rows` matches, such as "vq4dit-2bit-n2-seed0-steps20"."""
        if self.recipe == FULL_PRECISION:
            return f"fp-steps{self.steps}"
        if self.recipe == ROUNDING:
            return f"rtn-{self.bits}bit-steps{self.steps}"
        middle = f"{self.bits}bit-n{self.candidates}-seed{self.seed}"
        return f"{self.recipe}-{middle}-steps{self.steps}"

    @property
    def is_calibrated(self) -> bool:
        """Whether an artifact is made for it."""
        return self.recipe not in (FULL_PRECISION, ROUNDING)

    def settings_of_recipe(self) -> Recipe:
        """The named recipe with this row's number of candidates."""
        return replace(RECIPES[self.recipe], num_candidates=self.candidates)


def plan(steps: Sequence[int]) -> list[Row]:
    """All rows: everything at the first number of steps, the main rows at the others too."""
    rows = []
    for number, count in enumerate(steps):
        rows.append(full_precision_row(count))
        main = [_row(recipe, 2, seed, count) for recipe in MAIN_RECIPES for seed in MAIN_SEEDS]
        if number:
            rows += main
            continue
        rows.append(Row(recipe=ROUNDING, bits=2, candidates=0, seed=0, steps=count))
        rows += main
        ours = _row(OURS, 2, 0, count)
        rows += [replace(ours, candidates=n) for n in CANDIDATES if n != ours.candidates]
        rows += [_row(recipe, b, 0, count) for b in OTHER_BITS for recipe in ("kmeans", OURS)]
    return rows


def full_precision_row(steps: int) -> Row:
    """The row that all others with as many steps are compared with."""
    return Row(recipe=FULL_PRECISION, bits=32, candidates=0, seed=0, steps=steps)


def _row(recipe: str, bits: int, seed: int, steps: int) -> Row:
    """A row with as many candidates as the recipe has."""
    candidates = RECIPES[recipe].num_candidates
    return Row(recipe=recipe, bits=bits, candidates=candidates, seed=seed, steps=steps)


def calibration_settings(row: Row, checkpoint_sha256: str, threads: int) -> dict[str, Any]:
    """All that the row's model follows from, the program's version apart."""
    recipe = row.settings_of_recipe().to_dict() if row.is_calibrated else row.recipe
    return {
        "checkpoint": checkpoint_sha256,
        "bits": row.bits,
        "seed": row.seed,
        "recipe": recipe,
        "threads": threads,
    }


def hash_settings(settings: dict[str, Any]) -> str:
    """16 hexadecimal digits that tell settings apart."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def hash_code() -> str:
    """16 hexadecimal digits of the calibration's source files."""
    digest = hashlib.sha256()
    for folder in vq4dit.calibrate.__path__:
        for path in sorted(Path(folder).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
