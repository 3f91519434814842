"""Check what a caller asks of a pipeline, before all work: labels, guidance, latents, batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vq4dit.engines.manifest import Manifest
from vq4dit.errors import OptionError

from .images import PICTURE_CHANNELS
from .session import Floats

DEFAULT_CFG_SCALE = 4.0
DEFAULT_BATCH_SIZE = 16
MAX_CFG_SCALE = 1e4

#: Pictures of one request, and samples of one step where the engine sets no limit.
MAX_IMAGES = 2**31

_MAX_NAMES_TOLD = 20

Labels = int | str | Sequence[int | str] | NDArray[np.integer[Any]]


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
    """Cut 0..num_samples into slices of at most batch_size; OptionError if the engine cannot."""
    low, high = manifest.batch_min, manifest.batch_max
    if batch_size is None:
        batch_size = max(low, min(DEFAULT_BATCH_SIZE, high or DEFAULT_BATCH_SIZE))
    size = checked_integer("batch_size", batch_size, low, high or MAX_IMAGES)
    for start in range(0, num_samples, size):
        yield slice(start, min(start + size, num_samples))


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
