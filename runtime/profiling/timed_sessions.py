"""Wraps the sessions of a pipeline and notes when each run begins and ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vq4dit.runtime.pipeline import Pipeline
from vq4dit.runtime.session import DecoderSession, Floats, StepInputs, StepSession


@dataclass(kw_only=True)
class RunLog:
    """Begin and end of the runs of one session, in seconds of `time.perf_counter`."""

    begins: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """Duration of each run."""
        return [end - begin for begin, end in zip(self.begins, self.ends, strict=True)]

    @property
    def gaps(self) -> list[float]:
        """Time between the end of each run and the begin of the next."""
        return [begin - end for begin, end in zip(self.begins[1:], self.ends[:-1], strict=True)]


class TimedStep:
    """A `StepSession` that logs its runs."""

    def __init__(self, inner: StepSession) -> None:
        self.inner = inner
        self.log = RunLog()

    def run(self, inputs: StepInputs) -> tuple[Floats, Floats]:
        """Run one step."""
        self.log.begins.append(time.perf_counter())
        result = self.inner.run(inputs)
        self.log.ends.append(time.perf_counter())
        return result

    def close(self) -> None:
        """Close the wrapped session."""
        self.inner.close()


class TimedDecoder:
    """A `DecoderSession` that logs its runs."""

    def __init__(self, inner: DecoderSession) -> None:
        self.inner = inner
        self.log = RunLog()

    def decode(self, latent: Floats) -> Floats:
        """Decode latents."""
        self.log.begins.append(time.perf_counter())
        result = self.inner.decode(latent)
        self.log.ends.append(time.perf_counter())
        return result

    def close(self) -> None:
        """Close the wrapped session."""
        self.inner.close()


@contextmanager
def timed(pipeline: Pipeline) -> Iterator[tuple[RunLog, RunLog]]:
    """Log the runs of a pipeline's step and decoder sessions while the block lasts."""
    step, decoder = step_session(pipeline), decoder_session(pipeline)
    timed_step, timed_decoder = TimedStep(step), None
    pipeline._session = timed_step
    if decoder is not None:
        timed_decoder = TimedDecoder(decoder)
        pipeline._decoder = timed_decoder
    try:
        yield timed_step.log, timed_decoder.log if timed_decoder else RunLog()
    finally:
        pipeline._session, pipeline._decoder = step, decoder


def step_session(pipeline: Pipeline) -> StepSession:
    """The session that runs the pipeline's steps; the pipeline must be open."""
    session = pipeline._session
    if session is None:
        raise RuntimeError("the pipeline holds no step session: it is closed")
    return session


def decoder_session(pipeline: Pipeline) -> DecoderSession | None:
    """The session that decodes the pipeline's latents, None for a pixel model."""
    return pipeline._decoder
