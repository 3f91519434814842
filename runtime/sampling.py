"""The loop over the sampling steps of one batch; the step model does all arithmetic on tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vq4dit.errors import Cancelled, OptionError

from .checks import check_latents
from .noise import INITIAL_STEP, gaussian_noise
from .noise_ahead import MIN_ELEMENTS, NoiseAhead
from .request import Request, padded
from .session import Floats, StepInputs
from .step_report import Callback, StepReport

#: (step i, sample indices (n,)) -> (n, C, H, W) normal numbers.
NoiseSource = Callable[[int, NDArray[np.int64]], ArrayLike]


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplingRun:
    """Draws the latents of one request, batch by batch.

    Args:
        request: what to draw.
        latent_shape: (C, H, W).
        batch_min: the engine's smallest batch; a smaller one is filled up with copies.
        num_batches: batches of the request, for the reports.
        run_step: runs one step of the engine: inputs -> latent_out, x_start.
        decode: for the reports.
        noise: takes the place of seeded noise in the steps, None for seeded noise.
        callback, cancel: see `Pipeline.__call__`.
    """

    request: Request
    latent_shape: tuple[int, int, int]
    batch_min: int
    num_batches: int
    run_step: Callable[[StepInputs], tuple[Floats, Floats]]
    decode: Callable[[Floats], NDArray[np.uint8]]
    noise: NoiseSource | None
    callback: Callback | None
    cancel: threading.Event | None

    def sample(self, batch: int, rows: slice, given: Floats | None) -> Floats:
        """All steps for one batch.

        Args:
            batch: its number, 0..num_batches-1.
            rows: its pictures among those of the request; n of them.
            given: (N, C, H, W) initial latents of the whole request, None for seeded ones.
        Returns:
            (n, C, H, W) float32 final latents.
        Raises:
            Cancelled: the event was set.
            Vq4ditError: a latent became NaN, infinite or constant.
        """
        request, num_rows = self.request, rows.stop - rows.start
        samples = padded(request.samples[rows], self.batch_min)
        labels = padded(request.labels[rows], self.batch_min)
        if given is None:
            latent = gaussian_noise(request.seed, samples, INITIAL_STEP, self.latent_shape)
        else:
            latent = padded(given[rows], self.batch_min)
        zeros = np.zeros_like(latent)
        cfg_scale = np.full(len(latent), request.cfg_scale, np.float32)
        history = zeros
        with NoiseAhead(partial(self._noise, samples)) as noise:
            for i, t in enumerate(request.schedule.timesteps):
                self.check_cancelled(f"step {i + 1} of {request.num_steps}")
                inputs = StepInputs(
                    latent=latent,
                    timestep=np.full(len(latent), t, np.float32),
                    label=labels,
                    cfg_scale=cfg_scale,
                    coefficients=np.tile(request.table[i], (len(latent), 1)),
                    noise=noise.take(i) if self._needs_noise(i) else zeros,
                    history=history,
                )
                if self._is_worth_a_thread(latent.size) and self._needs_noise(i + 1):
                    noise.begin(i + 1)
                latent, history = self.run_step(inputs)
                check_latents(latent, samples, step=i, num_steps=request.num_steps, t=int(t))
                self._report(batch, i, samples[:num_rows], latent, history)
        return latent[:num_rows]

    def check_cancelled(self, stage: str) -> None:
        """Raise Cancelled if the caller's event is set."""
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled(f"drawing was cancelled before {stage}, as its event asked for")

    def _report(
        self, batch: int, step: int, samples: NDArray[np.int64], latent: Floats, x_start: Floats
    ) -> None:
        """Tell the callback of a step; rows beyond those of `samples` fill up the batch."""
        if self.callback is None:
            return
        num_rows, num_steps = len(samples), self.request.num_steps
        self.callback(
            StepReport(
                done=batch * num_steps + step + 1,
                total=self.num_batches * num_steps,
                step=step,
                t=int(self.request.schedule.timesteps[step]),
                samples=samples,
                latents=latent[:num_rows],
                x_start=x_start[:num_rows],
                decode=self.decode,
            )
        )

    def _needs_noise(self, step: int) -> bool:
        """Whether there is such a step and it adds noise: c3 is not 0."""
        return step < self.request.num_steps and bool(self.request.table[step, 3] != 0.0)

    def _is_worth_a_thread(self, num_elements: int) -> bool:
        """Whether noise is drawn while the engine runs; a caller's own never leaves its thread."""
        return self.noise is None and num_elements >= MIN_ELEMENTS

    def _noise(self, samples: NDArray[np.int64], step: int) -> Floats:
        """Noise of one step, (n, C, H, W); OptionError if the caller's is misshaped."""
        if self.noise is None:
            return gaussian_noise(self.request.seed, samples, step, self.latent_shape)
        array = np.ascontiguousarray(self.noise(step, samples), np.float32)
        needed = (len(samples), *self.latent_shape)
        if array.shape != needed:
            raise OptionError(
                f"noise gave an array of shape {array.shape} at step {step}, needed {needed}"
            )
        return array
