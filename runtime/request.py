"""What a caller asks of a pipeline, checked and resolved before all work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vq4dit.engines.manifest import Manifest
from vq4dit.errors import OptionError

from .images import PICTURE_CHANNELS
from .noise import MAX_SAMPLE, check_seed
from .samplers import coefficient_table
from .schedule import SpacedSchedule, linear_alpha_bar, spaced_schedule
from .session import Floats

DEFAULT_CFG_SCALE = 4.0
DEFAULT_BATCH_SIZE = 16
MAX_CFG_SCALE = 1e4

#: Pictures of one request, and samples of one step where the engine sets no limit.
MAX_IMAGES = 2**31

#: `Request.spacing` where the caller chose the timesteps.
OWN_TIMESTEPS = "own"

_MAX_NAMES_TOLD = 20

Labels = int | str | Sequence[int | str] | NDArray[np.integer[Any]]
Integers = int | Sequence[int] | NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One call of a pipeline, resolved; N pictures.

    Args:
        labels: (N,) int64.
        samples: (N,) int64 sample indices: the noise of a picture follows from seed and index.
        schedule: the timesteps, first step first.
        table: (steps, 8) float32, the sampler's coefficients.
        cfg_scale: guidance weight.
        sampler, spacing, eta, seed: as asked for; spacing is "own" where timesteps were given.
    """

    labels: NDArray[np.int64]
    samples: NDArray[np.int64]
    schedule: SpacedSchedule
    table: Floats
    cfg_scale: float
    sampler: str
    spacing: str
    eta: float
    seed: int

    @property
    def num_steps(self) -> int:
        """Sampling steps."""
        return len(self.table)

    def text(self, manifest: Manifest) -> dict[str, str]:
        """Key -> value for a PNG's text: enough to draw the same pictures again."""
        numbers = list(dict.fromkeys(self.labels.tolist()))
        values: dict[str, Any] = {
            "labels": _joined(self.labels if len(numbers) > 1 else numbers),
            "samples": _ranges(self.samples),
            "steps": self.num_steps,
            "spacing": self.spacing,
            "sampler": self.sampler,
            "cfg_scale": f"{self.cfg_scale:g}",
            "eta": f"{self.eta:g}",
            "seed": self.seed,
        }
        if manifest.label_names:
            values["label_names"] = "; ".join(manifest.label_names[n] for n in numbers)
        if self.spacing == OWN_TIMESTEPS:
            values["timesteps"] = _joined(self.schedule.timesteps)
        return {key: str(value) for key, value in values.items()}


def resolved_request(
    manifest: Manifest,
    labels: Labels,
    *,
    steps: Integers = 50,
    cfg_scale: float | None = None,
    sampler: str = "ddim",
    seed: int = 0,
    spacing: str = "linspace",
    eta: float = 0.0,
    num_images: int | None = None,
    samples: Integers = 0,
) -> Request:
    """Check all options of `Pipeline.__call__` that say which pictures to draw.

    Raises:
        OptionError: a value is out of range; the message names it.
    """
    numbers = label_numbers(labels, manifest, num_images)
    check_seed(seed)
    training = manifest.schedule
    alpha_bar = linear_alpha_bar(training.num_timesteps, training.beta_start, training.beta_end)
    schedule = spaced_schedule(steps, alpha_bar, spacing)
    return Request(
        labels=numbers,
        samples=sample_indices(samples, len(numbers)),
        schedule=schedule,
        table=coefficient_table(sampler, schedule, eta).astype(np.float32),
        cfg_scale=resolved_cfg_scale(cfg_scale, manifest),
        sampler=sampler,
        spacing=spacing if isinstance(steps, (int, np.integer)) else OWN_TIMESTEPS,
        eta=eta,
        seed=int(seed),
    )


def sample_indices(samples: Integers, num_images: int) -> NDArray[np.int64]:
    """Sample indices (N,): the given ones, or num_images consecutive ones from the given first.

    Raises:
        OptionError: not integers in 0..2**32 - 1, or not one per picture.
    """
    if isinstance(samples, (Sequence, np.ndarray)) and not isinstance(samples, str):
        if len(samples) != num_images:
            raise OptionError(
                f"samples has {len(samples)} indices, needed one for each of {num_images} pictures"
            )
        values = [checked_integer("a sample index", n, 0, MAX_SAMPLE) for n in samples]
        return np.array(values, np.int64)
    first = checked_integer("samples", samples, 0, MAX_SAMPLE - num_images)
    return first + np.arange(num_images, dtype=np.int64)


def label_numbers(
    labels: Labels, manifest: Manifest, num_images: int | None = None
) -> NDArray[np.int64]:
    """Labels as (N,) int64: names looked up, repeated in turn up to num_images.

    Raises:
        OptionError: no label, an unknown name, a number out of range, or num_images below 1.
    """
    values = [labels] if isinstance(labels, (int, str, np.integer)) else list(labels)
    if not values:
        raise OptionError("labels is empty, needed at least one label")
    numbers = np.array([_label_number(value, manifest) for value in values], np.int64)
    if num_images is None:
        return numbers
    return np.resize(numbers, checked_integer("num_images", num_images, 1, MAX_IMAGES))


def checked_integer(name: str, value: Any, low: int, high: int) -> int:
    """The value as int; OptionError unless it is an integer in low..high."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or not low <= value <= high:
        raise OptionError(f"{name} is {value!r}, needed an integer in {low}..{high}")
    return int(value)


def resolved_cfg_scale(cfg_scale: float | None, manifest: Manifest) -> float:
    """The guidance weight to use: None is 4, or 1 with an engine built without guidance.

    Raises:
        OptionError: not a number of moderate size, or not 1 though the engine has no guidance.
    """
    value = (DEFAULT_CFG_SCALE if manifest.cfg else 1.0) if cfg_scale is None else float(cfg_scale)
    if not abs(value) <= MAX_CFG_SCALE:  # NaN is not either
        raise OptionError(f"cfg_scale is {cfg_scale}, needed a number of at most {MAX_CFG_SCALE:g}")
    if not manifest.cfg and value != 1.0:
        raise OptionError(
            f"cfg_scale is {cfg_scale}, but the engine was built without guidance and can only "
            "do 1; build it without --no-cfg"
        )
    return value


def checked_latents(latents: ArrayLike, manifest: Manifest, num_samples: int) -> Floats:
    """Initial latents as (N, C, H, W) float32; OptionError if misshaped or not finite."""
    array = np.ascontiguousarray(latents, np.float32)
    needed = (num_samples, *manifest.latent_shape)
    if array.shape != needed:
        raise OptionError(f"latents have shape {array.shape}, needed {needed}")
    if not np.isfinite(array).all():
        raise OptionError("latents hold NaN or infinite values")
    return array


def check_can_decode(manifest: Manifest) -> None:
    """Raise OptionError if the engine has no decoder and its latents are not pictures either."""
    channels = manifest.latent_shape[0]
    if "decoder" not in manifest.files and channels not in PICTURE_CHANNELS:
        raise OptionError(
            f"this engine has no decoder, and its latents have {channels} channels; "
            'build it with --vae FOLDER, or ask for output="latent"'
        )


def batch_slices(num_samples: int, batch_size: int | None, manifest: Manifest) -> Iterator[slice]:
    """Cut 0..num_samples into slices of at most batch_size; OptionError if the engine cannot.

    The last one, and any of fewer samples than the engine can run, is for `padded`.
    """
    low, high = manifest.batch_min, manifest.batch_max
    if batch_size is None:
        batch_size = max(low, min(DEFAULT_BATCH_SIZE, high or DEFAULT_BATCH_SIZE))
    size = checked_integer("batch_size", batch_size, low, high or MAX_IMAGES)
    for start in range(0, num_samples, size):
        yield slice(start, min(start + size, num_samples))


def padded(rows: NDArray[Any], num_rows: int) -> NDArray[Any]:
    """Rows (n, ...) and copies of the last one up to num_rows; the same array if there are enough.

    An engine with a smallest batch runs the copies too; rows do not depend on each other.
    """
    lacking = num_rows - len(rows)
    return rows if lacking <= 0 else np.concatenate([rows, np.repeat(rows[-1:], lacking, axis=0)])


def _label_number(label: Any, manifest: Manifest) -> int:
    num_classes, names = manifest.model.num_classes, manifest.label_names
    if isinstance(label, str):
        if label in names:
            return names.index(label)
        known = ", ".join(names[:_MAX_NAMES_TOLD]) + (", ..." * (len(names) > _MAX_NAMES_TOLD))
        raise OptionError(
            f"label {label!r} is unknown; needed 0..{num_classes - 1}"
            + (f" or one of: {known}" if names else " (this engine has no label names)")
        )
    if isinstance(label, bool) or not isinstance(label, (int, np.integer)):
        raise OptionError(f"label {label!r} is neither an integer nor a name")
    if not 0 <= label < num_classes:
        raise OptionError(f"label {label} is out of range 0..{num_classes - 1}")
    return int(label)


def _joined(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def _ranges(numbers: NDArray[np.int64]) -> str:
    """Integers as "0-7" where they are consecutive, else separated by commas."""
    if len(numbers) > 1 and (np.diff(numbers) == 1).all():
        return f"{numbers[0]}-{numbers[-1]}"
    return _joined(numbers)
