"""The two sessions of an open engine: loaded when needed, run in turns, freed together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from vq4dit.errors import OptionError

from .selftest import SelfTestResult, run_selftest
from .session import DecoderSession, Floats, StepInputs, StepSession

#: Told after every run: ("step" or "decode", begin, end), in seconds of `time.perf_counter`.
RunObserver = Callable[[Literal["step", "decode"], float, float], None]


class EngineSessions:
    """Step model and decoder of one engine; threads take turns run by run.

    Args:
        engine_dir: for messages.
        load_step: loads the step model; called at once.
        load_decoder: loads the decoder, None where there is none; with `low_memory` it is called
            when it is needed, else at once.
        low_memory: hold one model at a time.
    """

    def __init__(
        self,
        engine_dir: Path,
        *,
        load_step: Callable[[], StepSession],
        load_decoder: Callable[[], DecoderSession] | None,
        low_memory: bool,
    ) -> None:
        self._engine_dir, self._low_memory = engine_dir, low_memory
        self._load_step, self._load_decoder = load_step, load_decoder
        self._lock, self._closed = threading.Lock(), False
        self._observer: RunObserver | None = None
        self._step: StepSession | None = load_step()
        self._decoder: DecoderSession | None = None
        if load_decoder is not None and not low_memory:
            self._decoder = load_decoder()

    @property
    def step(self) -> StepSession:
        """The step model's session, for measurements of one thread; OptionError when closed."""
        with self._lock:
            return self._open_step()

    @property
    def decoder(self) -> DecoderSession | None:
        """The decoder's session, None where there is none; OptionError when closed."""
        with self._lock:
            return None if self._load_decoder is None else self._open_decoder()

    def run_step(self, inputs: StepInputs) -> tuple[Floats, Floats]:
        """Run one step; `close` waits for its end.

        Raises:
            OptionError: the sessions are closed.
            Vq4ditError: the backend failed.
        """
        with self._lock:
            session, begin = self._open_step(), time.perf_counter()
            result = session.run(inputs)
            self._tell("step", begin)
            return result

    def decode(self, parts: Sequence[Floats]) -> list[Floats]:
        """Latents (n, C, h, w) each to pictures (n, C, H, W) float32; raises as `run_step`.

        No step comes in between: with `low_memory` it would have to load the decoder again.
        """
        pictures = []
        with self._lock:
            session = self._open_decoder()
            for latent in parts:
                begin = time.perf_counter()
                pictures.append(session.decode(latent))
                self._tell("decode", begin)
        return pictures

    def selftest(self, tensors: Mapping[str, NDArray[Any]]) -> SelfTestResult:
        """Run the engine's self-test."""
        with self._lock:
            open_decoder = None if self._load_decoder is None else self._open_decoder
            return run_selftest(tensors, self._open_step(), open_decoder)

    @contextmanager
    def observed(self, observer: RunObserver) -> Iterator[None]:
        """Tell an observer of every run while the block lasts, whichever thread runs it.

        Raises:
            OptionError: there is an observer already.
        """
        with self._lock:
            if self._observer is not None:
                raise OptionError(f"{self._engine_dir}: its runs are being observed already")
            self._observer = observer
        try:
            yield
        finally:
            with self._lock:
                self._observer = None

    def close(self) -> None:
        """Free both; a second call does nothing."""
        with self._lock:
            self._closed = True
            self._free_step()
            self._free_decoder()

    def _tell(self, what: Literal["step", "decode"], begin: float) -> None:
        if self._observer is not None:
            self._observer(what, begin, time.perf_counter())

    def _open_step(self) -> StepSession:
        self._check_open()
        if self._low_memory:
            self._free_decoder()
        if self._step is None:
            self._step = self._load_step()
        return self._step

    def _open_decoder(self) -> DecoderSession:
        self._check_open()
        if self._low_memory:
            self._free_step()
        if self._decoder is None:
            if self._load_decoder is None:
                raise OptionError(f"{self._engine_dir}: has no decoder")
            self._decoder = self._load_decoder()
        return self._decoder

    def _check_open(self) -> None:
        if self._closed:
            raise OptionError(f"{self._engine_dir}: this pipeline is closed; open it again")

    def _free_step(self) -> None:
        if self._step is not None:
            self._step.close()
        self._step = None

    def _free_decoder(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = None
