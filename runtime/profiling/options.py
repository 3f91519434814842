"""What to measure, how often, and for how long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vq4dit.errors import OptionError
from vq4dit.runtime.request import checked_integer

_MAX_BATCH = 1 << 20
_MAX_REPEATS = 1_000_000
_MAX_STEPS = 1000
_MAX_SECONDS = 86_400.0


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """Options of `profile_engines`.

    Args:
        batch: samples of one step, in everything but the throughput.
        batches: batch sizes of the throughput table; those that an engine cannot do are left out.
        steps, sampler: of a whole picture.
        warmup: runs that do not count, before every measurement.
        repeats: runs of a step; image_repeats: of a whole picture.
        seconds: limit for each single measurement, after which fewer runs must do.
        threads, accuracy, providers: as `Pipeline` takes them.
        layers, memory, energy: whether to measure these, too.
    Raises:
        OptionError: a value is out of range.
    """

    batch: int = 1
    batches: tuple[int, ...] = (1, 2, 4, 8)
    steps: int = 50
    sampler: str = "ddim"
    warmup: int = 3
    repeats: int = 100
    image_repeats: int = 5
    seconds: float = 15.0
    threads: int | None = None
    accuracy: str = "fast"
    providers: Sequence[str] | None = None
    layers: bool = True
    memory: bool = True
    energy: bool = True

    def __post_init__(self) -> None:
        checked_integer("batch", self.batch, 1, _MAX_BATCH)
        for batch in self.batches:
            checked_integer("batches", batch, 1, _MAX_BATCH)
        checked_integer("steps", self.steps, 1, _MAX_STEPS)
        checked_integer("warmup", self.warmup, 0, _MAX_REPEATS)
        checked_integer("repeats", self.repeats, 1, _MAX_REPEATS)
        checked_integer("image_repeats", self.image_repeats, 1, _MAX_REPEATS)
        if not (math.isfinite(self.seconds) and 0 < self.seconds <= _MAX_SECONDS):
            raise OptionError(
                f"seconds is {self.seconds}, needed a number above 0 and at most {_MAX_SECONDS:g}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
