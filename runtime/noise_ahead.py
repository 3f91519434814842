"""Draws the noise of the coming step in a thread of its own, while the engine runs this step.

Noise depends on seed, sample and step alone, so who draws it and when changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from .session import Floats

#: Numbers of a step from which on the thread is worth its while: below, the hand-over costs as much
#: time as drawing does.
MIN_ELEMENTS = 4096

#: How the names of the threads begin.
THREAD_NAME = "vq4dit-noise"


class NoiseAhead:
    """A context manager; its end waits for the draw under way, and no thread is left behind.

    Args:
        draw: step -> noise; called in the other thread, or in this one for a step not begun.
    """

    def __init__(self, draw: Callable[[int], Floats]) -> None:
        self._draw = draw
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=THREAD_NAME)
        self._coming: tuple[int, Future[Floats]] | None = None

    def begin(self, step: int) -> None:
        """Begin to draw the noise of a step; the thread starts with the first."""
        self._coming = step, self._executor.submit(self._draw, step)

    def take(self, step: int) -> Floats:
        """Noise of a step; waits for it. What `draw` raises is raised here."""
        coming, self._coming = self._coming, None
        if coming is None or coming[0] != step:
            return self._draw(step)
        return coming[1].result()

    def __enter__(self) -> NoiseAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
