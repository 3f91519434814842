"""What a diffusers DiTPipeline folder tells besides its transformer.

Label names from model_index.json, the latent scaling factor from vae/config.json; the scheduler is
read only to refuse a model of another noise schedule. Every one of the files may be absent.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from vq4dit.errors import ArtifactError
from vq4dit.model_config import ModelConfig

from .diffusers_config import read_json

#: The training schedule that the runtime's samplers know (1000 linear betas, eps prediction).
_SCHEDULE: dict[str, tuple[Any, ...]] = {
    "num_train_timesteps": (1000,),
    "beta_start": (0.0001,),
    "beta_end": (0.02,),
    "beta_schedule": ("linear",),
    "trained_betas": (None,),
    "prediction_type": ("epsilon",),
    "rescale_betas_zero_snr": (False,),
}

#: Options of a VAE that shift or normalize latents, which the runtime does not do.
_NO_SHIFT = ("shift_factor", "latents_mean", "latents_std")


def read_pipeline_files(path: Path, config: ModelConfig) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Read the pipeline's small files.

    Args:
        path: the pipeline's folder.
        config: sizes of its transformer.
    Returns:
        class_names (a JSON list) and scaling_factor where they are told, and the files read.
    Raises:
        ArtifactError: a damaged file, labels that are not one per class, a scaling factor that is
            no positive number, a VAE that shifts latents, or another noise schedule.
    """
    told: dict[str, str] = {}
    index, vae = path / "model_index.json", path / "vae" / "config.json"
    scheduler = path / "scheduler" / "scheduler_config.json"
    files = tuple(file for file in (index, vae, scheduler) if file.is_file())
    if index in files:
        names = _label_names(index, read_json(index).get("id2label"), config)
        told |= {"class_names": json.dumps(names)} if names else {}
    if vae in files:
        factor = _scaling_factor(vae, read_json(vae))
        told |= {} if factor is None else {"scaling_factor": repr(factor)}
    if scheduler in files:
        _check_schedule(scheduler, read_json(scheduler))
    return told, files


def _label_names(path: Path, id2label: Any, config: ModelConfig) -> list[str]:
    """Names in the order of labels; empty where the pipeline has none."""
    if id2label is None or id2label == {}:
        return []
    needed = [str(label) for label in range(config.num_classes)]
    if not isinstance(id2label, dict) or set(id2label) != set(needed):
        found = len(id2label) if isinstance(id2label, dict) else type(id2label).__name__
        raise ArtifactError(
            f"{path}: id2label ({found}) needed one name for each label 0..{config.num_classes - 1}"
        )
    names = [id2label[label] for label in needed]
    if not all(isinstance(name, str) and name for name in names):
        raise ArtifactError(f"{path}: id2label holds values that are no text")
    return names


def _scaling_factor(path: Path, values: dict[str, Any]) -> float | None:
    """The VAE's factor; None where an old configuration does not tell it.

    AutoencoderTiny's is 1, since it takes scaled latents: it does not tell how they are scaled.
    """
    if values.get("_class_name") == "AutoencoderTiny":
        return None
    for name in _NO_SHIFT:
        if values.get(name) not in (None, 0.0):
            raise ArtifactError(
                f"{path}: {name} is {values[name]!r}, needed none; only VAEs whose latents are "
                "scaled by one factor can be used"
            )
    factor = values.get("scaling_factor")
    if factor is None:
        return None
    is_number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
    if not is_number or not 0 < factor < math.inf:
        raise ArtifactError(f"{path}: scaling_factor is {factor!r}, needed a positive number")
    return float(factor)


def _check_schedule(path: Path, values: dict[str, Any]) -> None:
    """Refuse a schedule that the samplers do not follow; absent options have these values."""
    for name, allowed in _SCHEDULE.items():
        if name in values and values[name] not in allowed:
            raise ArtifactError(
                f"{path}: {name} is {values[name]!r}, needed {allowed[0]!r}; the samplers know "
                "only the schedule of the public DiT models"
            )
