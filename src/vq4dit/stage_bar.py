"""Progress of long work on a terminal: one bar with time left per stage, on stderr."""

from __future__ import annotations

from tqdm import tqdm


class StageBar:
    """A `vq4dit.calibrate.progress.Progress` that draws; a context manager that ends the last bar.

    Args:
        quiet: draw nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._stage: str | None = None
        self._bar: tqdm | None = None

    def __call__(self, stage: str, done: int, total: int, **values: float) -> None:
        """Draw `done` of `total` of a stage, with numbers behind it."""
        if stage != self._stage or self._bar is None:
            self.close()
            self._stage = stage
            self._bar = tqdm(desc=stage, total=total, disable=self._quiet, mininterval=1.0)
        if values:
            shown = {name: f"{value:.4g}" for name, value in values.items()}
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the present bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def __enter__(self) -> StageBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
