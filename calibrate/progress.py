"""How a long run tells where it is: a callable, so that neither tqdm nor a terminal is needed."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called after each finished piece of work."""

    def __call__(self, stage: str, done: int, total: int, **values: float) -> None:
        """Report that `done` of `total` pieces of a stage are finished, with numbers to show."""


def silent(stage: str, done: int, total: int, **values: float) -> None:
    """A Progress that shows nothing."""
