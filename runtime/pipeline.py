"""From an engine directory to pictures: load, loop over the sampling steps, decode."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vq4dit import __version__
from vq4dit.engine_files import hash_file
from vq4dit.engines.manifest import MANIFEST_NAME, Manifest, load_manifest, verify_files
from vq4dit.errors import ArtifactError, OptionError

from .checks import check_pictures
from .engine_sessions import EngineSessions
from .images import uint8_from_pictures
from .open_session import check_runs_here, open_decoder_session, open_step_session
from .request import (
    DEFAULT_BATCH_SIZE,
    Integers,
    Labels,
    batch_slices,
    check_can_decode,
    checked_latents,
    padded,
    resolved_request,
)
from .sampling import NoiseSource, SamplingRun
from .selftest import SelfTestResult, load_selftest
from .session import Floats
from .step_report import Callback

_log = logging.getLogger(__name__)


class Pipeline:
    """A loaded engine that draws pictures; a context manager, safe to share between threads.

    `manifest` tells what the engine is; `sessions` runs single steps and tells of every run.

    Args:
        engine_dir: directory made by `vq4dit build`.
        accuracy: "fast", "exact" or "int8" kernels (target cpu).
        threads: threads of one step, None for ONNX Runtime's choice.
        providers: ONNX Runtime providers for target onnx, None for the CPU.
        verify: also run the engine's self-test.
        low_memory: hold one model at a time: the step model is freed before the decoder is loaded,
            and pictures are decoded one by one. Costs loading the models again in every call.
    Raises:
        ArtifactError: the directory is damaged, or the self-test fails.
        BackendUnavailable: this machine lacks what the engine needs.
        OptionError: unknown accuracy, threads below 1, or providers for target cpu.
    """

    def __init__(
        self,
        engine_dir: str | Path,
        *,
        accuracy: str = "fast",
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        verify: bool = False,
        low_memory: bool = False,
    ) -> None:
        self.engine_dir = Path(engine_dir)
        self.manifest: Manifest = load_manifest(self.engine_dir)
        check_runs_here(self.manifest, providers)
        verify_files(self.engine_dir, self.manifest)
        self.engine_sha256 = hash_file(self.engine_dir / MANIFEST_NAME)
        self._accuracy, self._low_memory = accuracy, low_memory
        options: dict[str, Any] = {"threads": threads, "providers": providers}
        load = self.engine_dir, self.manifest
        has_decoder = "decoder" in self.manifest.files
        self.sessions = EngineSessions(
            self.engine_dir,
            load_step=partial(open_step_session, *load, accuracy=accuracy, **options),
            load_decoder=partial(open_decoder_session, *load, **options) if has_decoder else None,
            low_memory=low_memory,
        )
        self._told_cfg_cost = False
        if verify:
            self._require_selftest(accuracy)

    def __call__(
        self,
        labels: Labels,
        steps: Integers = 50,
        cfg_scale: float | None = None,
        sampler: str = "ddim",
        seed: int = 0,
        latents: ArrayLike | None = None,
        callback: Callback | None = None,
        *,
        spacing: str = "linspace",
        eta: float = 0.0,
        num_images: int | None = None,
        samples: Integers = 0,
        batch_size: int | None = None,
        noise: NoiseSource | None = None,
        cancel: threading.Event | None = None,
        output: str = "uint8",
    ) -> NDArray[Any]:
        """Draw one picture per label.

        Picture i depends on the seed, its label and its sample index alone: it is the same for any
        batch size, order and number of threads, and picture 17 of a request can be drawn again by
        itself with samples=17.

        Args:
            labels: one label or several, as numbers 0..num_classes-1 or as names of the manifest.
            steps: sampling steps, 1..1000, or the timesteps themselves, descending.
            cfg_scale: guidance weight, None for 4.0, or 1.0 with an engine built without guidance.
            sampler: "ddim", "ddpm" or "dpm-solver++".
            seed: 0..2**64 - 1.
            latents: (N, C, H, W) initial latents instead of seeded ones.
            callback: called with a `StepReport` after every step of every batch; what it raises
                ends the call.
            spacing: which timesteps a number of steps means: "linspace", "leading" or "trailing".
            eta: share of fresh noise, 0..1, for "ddim".
            num_images: draw so many pictures and repeat the labels in turn.
            samples: sample index of the first picture, the others follow; or one index for each.
            batch_size: samples of one step, None for 16 or the engine's largest.
            noise: called with (step i = 0..steps-1, sample indices (n,)) for (n, C, H, W) normal
                numbers instead of seeded ones, where a step needs them.
            cancel: an event that another thread may set to end the call before its next step.
            output: "uint8" for pictures, "latent" for the final latents without decoding.
        Returns:
            (N, H, W, C) uint8, or (N, C, H, W) float32 latents.
        Raises:
            OptionError: a value is out of range.
            Cancelled: the event was set.
            Vq4ditError: latents became NaN, infinite or constant (the message names the step and
                the sample), or a decoded picture did.
        """
        request = resolved_request(
            self.manifest, labels, steps=steps, cfg_scale=cfg_scale, sampler=sampler, seed=seed,
            spacing=spacing, eta=eta, num_images=num_images, samples=samples,
        )  # fmt: skip
        if output not in ("uint8", "latent"):
            raise OptionError(f"output {output!r} is unknown; needed uint8 or latent")
        if output == "uint8":
            check_can_decode(self.manifest)
        num_images = len(request.labels)
        given = None if latents is None else checked_latents(latents, self.manifest, num_images)
        batches = list(batch_slices(num_images, batch_size, self.manifest))
        self._tell_cfg_cost(request.cfg_scale)
        run = SamplingRun(
            request=request,
            latent_shape=self.manifest.latent_shape,
            batch_min=self.manifest.batch_min,
            num_batches=len(batches),
            run_step=self.sessions.run_step,
            decode=self.decode,
            noise=noise,
            callback=callback,
            cancel=cancel,
        )
        results = [run.sample(i, rows, given) for i, rows in enumerate(batches)]
        if output == "latent":
            return np.concatenate(results)
        # After all sampling: with low_memory only one model fits.
        pictures = []
        for rows, latent in zip(batches, results, strict=True):
            run.check_cancelled("decoding")
            floats = self._pictures(latent)
            check_pictures(floats, request.samples[rows], num_steps=request.num_steps)
            pictures.append(uint8_from_pictures(floats))
        return np.concatenate(pictures)

    def describe(
        self,
        labels: Labels,
        steps: Integers = 50,
        cfg_scale: float | None = None,
        sampler: str = "ddim",
        seed: int = 0,
        *,
        spacing: str = "linspace",
        eta: float = 0.0,
        num_images: int | None = None,
        samples: Integers = 0,
    ) -> dict[str, str]:
        """What a call with these options draws, for a PNG's text (`save_png`, `save_grid`).

        Returns:
            Labels, samples, steps, spacing, sampler, cfg_scale, eta and seed as text, and
            `software`, `target`, `accuracy`, `engine_sha256` (of manifest.json, which holds the
            hash of every other file) and `source_sha256`.
        Raises:
            OptionError: a value is out of range.
        """
        request = resolved_request(
            self.manifest, labels, steps=steps, cfg_scale=cfg_scale, sampler=sampler, seed=seed,
            spacing=spacing, eta=eta, num_images=num_images, samples=samples,
        )  # fmt: skip
        return {
            "software": f"vq4dit {__version__}",
            **request.text(self.manifest),
            "target": self.manifest.target,
            "accuracy": self._accuracy,
            "engine_sha256": self.engine_sha256,
            "source_sha256": self.manifest.source_sha256,
        }

    def decode(self, latents: Floats) -> NDArray[np.uint8]:
        """Final latents (N, C, h, w) float32 to pictures (N, H, W, C) uint8.

        At most 16 at a time, or the engine's largest batch; with low_memory one by one.

        The latent of a pixel model is a picture itself.

        Raises:
            OptionError: the engine has no decoder, or the pipeline is closed.
            Vq4ditError: the decoder gave NaN or infinite values.
        """
        return uint8_from_pictures(self._pictures(latents))

    def _pictures(self, latents: Floats) -> Floats:
        """Latents (N, C, h, w) to pictures (N, C, H, W) float32, about -1..1."""
        check_can_decode(self.manifest)
        if "decoder" not in self.manifest.files:
            return latents
        low, high = self.manifest.batch_min, self.manifest.batch_max
        size = 1 if self._low_memory else min(max(len(latents), 1), high or DEFAULT_BATCH_SIZE)
        parts = [latents[i : i + size] for i in range(0, max(len(latents), 1), size)]
        pictures = self.sessions.decode([padded(part, low) for part in parts])
        return np.concatenate([p[: len(part)] for p, part in zip(pictures, parts, strict=True)])

    def selftest(self, tensors: Mapping[str, NDArray[Any]]) -> SelfTestResult:
        """Run the engine's self-test (`selftest.load_selftest`) and give the errors."""
        return self.sessions.selftest(tensors)

    def close(self) -> None:
        """Free the sessions; a second call does nothing."""
        self.sessions.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_selftest(self, accuracy: str) -> None:
        """Raise ArtifactError if the self-test's errors are above the limits."""
        result = self.selftest(load_selftest(self._path("selftest"), self.manifest))
        if not result.is_within(accuracy, self.manifest.compute_dtype):
            self.close()
            raise ArtifactError(
                f"{self.engine_dir}: the self-test gives other numbers here than where the engine "
                f"was built: {result}; run `vq4dit verify {self.engine_dir}`"
            )

    def _path(self, role: str) -> Path:
        return self.engine_dir / self.manifest.files[role].name

    def _tell_cfg_cost(self, cfg_scale: float) -> None:
        """Say once that guidance with weight 1 pays double for nothing."""
        if self.manifest.cfg and cfg_scale == 1.0 and not self._told_cfg_cost:
            self._told_cfg_cost = True
            _log.info(
                "cfg_scale 1 needs no guidance, but this engine computes it all the same; "
                "an engine built with --no-cfg takes half the time"
            )
