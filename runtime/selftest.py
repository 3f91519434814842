"""The golden self-test of an engine: inputs of one step and the output that its build machine got.

One file, `selftest.safetensors`: the seven inputs, expected `latent_out` and `x_start` (float32),
and, with a decoder, expected `image` (uint8) of the first sample's latent. `build` writes it from
ONNX Runtime's function bodies; `verify` and `Pipeline(verify=True)` run it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.engines.manifest import Manifest
from vq4dit.errors import ArtifactError

from .images import uint8_from_pictures
from .noise import INITIAL_STEP, gaussian_noise
from .samplers import coefficient_table
from .schedule import linear_alpha_bar, spaced_schedule
from .session import DecoderSession, StepInputs, StepSession

#: Largest difference over largest expected value that a step may show, per accuracy mode.
LIMITS = {"exact": 1e-4, "fast": 2e-3, "int8": 1e-1}

#: Likewise by the engine's element type, where its arithmetic is narrower than float32: numbers of
#: 11 and of 8 bits.
DTYPE_LIMITS = {"float32": 0.0, "float16": 1e-2, "bfloat16": 8e-2}

#: Levels of 255 by which a decoded picture may differ.
IMAGE_LIMIT = 2

_SEED = 20240831
_CFG_SCALE = 1.5
_NUM_STEPS = 50
_STEPS = (12, 37)  # two samples at different timesteps: rows must not depend on each other

_OUTPUTS = ("latent_out", "x_start")


@dataclass(frozen=True, kw_only=True)
class SelfTestResult:
    """Errors of one run: largest difference over largest expected value, levels for `image`."""

    latent_out: float
    x_start: float
    image_levels: int | None

    def is_within(self, accuracy: str, compute_dtype: str = "float32") -> bool:
        """Whether all errors are within the limits of this accuracy mode (NaN is not)."""
        limit = selftest_limit(accuracy, compute_dtype)
        image = self.image_levels is None or self.image_levels <= IMAGE_LIMIT
        return self.latent_out <= limit and self.x_start <= limit and image


def selftest_limit(accuracy: str, compute_dtype: str) -> float:
    """Largest relative error that an engine of this element type may show in an accuracy mode."""
    return max(LIMITS[accuracy], DTYPE_LIMITS[compute_dtype])


def selftest_inputs(manifest: Manifest) -> StepInputs:
    """Seeded inputs: two samples at different steps of a DDPM run, with noise and history."""
    num_samples = min(len(_STEPS), manifest.batch_max or len(_STEPS))
    steps = np.array(_STEPS[:num_samples])
    s = manifest.schedule
    schedule = spaced_schedule(
        _NUM_STEPS, linear_alpha_bar(s.num_timesteps, s.beta_start, s.beta_end)
    )
    table = coefficient_table("ddpm", schedule)[steps]
    table[:, 2] = 0.25  # no sampler but the multistep one reads history: give it a weight
    samples = np.arange(num_samples)
    latent, noise, history = (
        gaussian_noise(_SEED, samples, step, manifest.latent_shape) for step in (INITIAL_STEP, 0, 1)
    )
    return StepInputs(
        latent=latent,
        timestep=schedule.timesteps[steps].astype(np.float32),
        label=(samples * 7 + 1) % manifest.model.num_classes,
        cfg_scale=np.full(num_samples, _CFG_SCALE if manifest.cfg else 1.0, np.float32),
        coefficients=table.astype(np.float32),
        noise=noise,
        history=history,
    )


def selftest_tensors(
    inputs: StepInputs, session: StepSession, decoder: DecoderSession | None
) -> dict[str, NDArray[Any]]:
    """Run the step (and the decoder) and give all tensors of the self-test's file."""
    tensors: dict[str, NDArray[Any]] = {f.name: getattr(inputs, f.name) for f in fields(inputs)}
    tensors.update(zip(_OUTPUTS, session.run(inputs), strict=True))
    if decoder is not None:
        tensors["image"] = uint8_from_pictures(decoder.decode(inputs.latent[:1]))
    return tensors


def run_selftest(
    tensors: Mapping[str, NDArray[Any]],
    session: StepSession,
    open_decoder: Callable[[], DecoderSession] | None,
) -> SelfTestResult:
    """Run the stored inputs and compare with the stored outputs.

    The decoder is opened after the step has run: opening it may free the step model.
    """
    inputs = stored_inputs(tensors)
    errors = [
        relative_error(found, tensors[name])
        for name, found in zip(_OUTPUTS, session.run(inputs), strict=True)
    ]
    levels = None
    if open_decoder is not None and "image" in tensors:
        image = uint8_from_pictures(open_decoder().decode(inputs.latent[:1]))
        levels = int(np.abs(image.astype(np.int16) - tensors["image"]).max())
    return SelfTestResult(latent_out=errors[0], x_start=errors[1], image_levels=levels)


def stored_inputs(tensors: Mapping[str, NDArray[Any]]) -> StepInputs:
    """The inputs among the self-test's tensors."""
    return StepInputs(**{f.name: tensors[f.name] for f in fields(StepInputs)})


def load_selftest(path: Path, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Read the self-test's file; ArtifactError if a tensor is missing, misshaped or mistyped."""
    from safetensors.numpy import load_file

    try:
        tensors: dict[str, NDArray[Any]] = load_file(path)
    except Exception as error:  # safetensors raises its own class, which it does not export
        raise ArtifactError(
            f"{path}: is not a self-test: {error}; build the engine again"
        ) from None
    num_samples = len(tensors["latent"]) if "latent" in tensors else 0
    image = manifest.image_shape
    needed: dict[str, tuple[tuple[int, ...], str]] = {
        **{
            name: ((num_samples, *manifest.latent_shape), "float32")
            for name in ("latent", "noise", "history", *_OUTPUTS)
        },
        "timestep": ((num_samples,), "float32"),
        "cfg_scale": ((num_samples,), "float32"),
        "label": ((num_samples,), "int64"),
        "coefficients": ((num_samples, 8), "float32"),
    }
    if "decoder" in manifest.files:
        needed["image"] = ((1, image[1], image[2], image[0]), "uint8")
    for name, (shape, dtype) in needed.items():
        found = tensors.get(name)
        if found is None or found.shape != shape or found.dtype != dtype:
            description = "nothing" if found is None else f"{found.dtype} {found.shape}"
            raise ArtifactError(
                f"{path}: tensor {name!r} is {description}, needed {dtype} {shape}; "
                "build the engine again"
            )
    return tensors


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest absolute difference over the largest absolute expected value."""
    scale = float(np.abs(expected).max())
    return float(np.abs(found.astype(np.float64) - expected).max()) / (scale or 1.0)
