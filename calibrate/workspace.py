"""Work in progress of a calibration: finished units on disk, so that a killed run can go on.

A folder `.NAME.partial` beside the artifact holds `settings.json` (what the units were made from
and how), one file per finished block with the curve of its training, and the latest state of the
stages that train the whole model. Every file is written to a temporary name and renamed, so that it
is whole or absent.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vq4dit.atomic_file import atomic_path
from vq4dit.errors import ArtifactError, Vq4ditError

from .layer import VQLinear
from .start import LayerSpec

_LOG = logging.getLogger(__name__)

#: Unit of the last stage, whose settings no other unit depends on.
DISTILLATION = "distillation"

#: Counted up when the contents of units change.
_FORMAT = 3


@dataclass(frozen=True, kw_only=True)
class StoredLayers:
    """A unit as it was stored: layers by full name, on the CPU, and what was stored with them."""

    layers: dict[str, VQLinear]
    others: dict[str, Tensor]


class Workspace:
    """The folder of one calibration run."""

    def __init__(self, output: Path, settings: dict[str, Any], *, resume: bool) -> None:
        """Open the workspace of an artifact; without `resume` earlier units are thrown away.

        Where settings of the distillation alone differ, only the distillation starts anew.

        Raises:
            ArtifactError: resume is asked for, but the units were made with other settings.
        """
        self.folder = output.parent / f".{output.name}.partial"
        path = self.folder / "settings.json"
        text = json.dumps({**settings, "format": _FORMAT}, indent=1, sort_keys=True)
        found = path.read_text(errors="replace") if resume and path.is_file() else None
        if found == text:
            return
        if found is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        else:
            _check_settings(self.folder, found, text)
            self._path(DISTILLATION).unlink(missing_ok=True)
        _write(path, lambda temporary: temporary.write_text(text))

    def save_layers(
        self, unit: str, layers: Mapping[str, VQLinear], others: Mapping[str, Tensor]
    ) -> None:
        """Store the layers of a unit, soft or hard, and other named tensors with them."""
        tensors = dict(others)
        for name, layer in layers.items():
            tensors |= {f"{name}.{part}": value for part, value in _layer_tensors(layer).items()}
        self.save_tensors(unit, tensors)

    def load_layers(self, unit: str, specs: Mapping[str, LayerSpec]) -> StoredLayers | None:
        """The layers of a unit and its other tensors, None if it is not finished."""
        tensors = self.load_tensors(unit)
        if tensors is None:
            return None
        layers = {}
        for name, spec in specs.items():
            own = {key for key in tensors if key.startswith(f"{name}.")}
            parts = {key.removeprefix(f"{name}."): tensors.pop(key) for key in own}
            layers[name] = _layer_from_tensors(parts, spec)
        return StoredLayers(layers=layers, others=tensors)

    def save_tensors(self, unit: str, tensors: Mapping[str, Tensor]) -> None:
        """Store named tensors of a unit.

        Raises:
            Vq4ditError: one of them is not finite: no state is kept that could not be gone on with.
            ArtifactError: the disk does not take them.
        """
        content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        bad = [name for name, tensor in content.items() if not torch.isfinite(tensor).all()]
        if bad:
            raise Vq4ditError(
                f"{unit}: {bad[0]} became NaN or infinite ({len(bad)} of {len(content)} tensors) "
                "and is not stored; what was stored before stays. Use another seed, no autocast, "
                "or a recipe with smaller learning rates"
            )
        _write(self._path(unit), lambda temporary: save_file(content, temporary))

    def load_tensors(self, unit: str) -> dict[str, Tensor] | None:
        """Named tensors of a unit, None if it is not there or cannot be read."""
        path = self._path(unit)
        if not path.is_file():
            return None
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            _LOG.warning("%s cannot be read (%s); it is made again", path, error)
            return None

    def _path(self, unit: str) -> Path:
        """File of a unit."""
        return self.folder / f"{unit}.safetensors"

    def remove(self) -> None:
        """Throw the workspace away: the artifact is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _layer_tensors(layer: VQLinear) -> dict[str, Tensor]:
    """Everything that a layer is made of."""
    values = {name: value.detach() for name, value in layer.named_parameters()}
    names = ("candidates", "frozen") if layer.is_soft else ("assignments",)
    return {**values, **{name: getattr(layer, name) for name in names}}


def _layer_from_tensors(tensors: Mapping[str, Tensor], spec: LayerSpec) -> VQLinear:
    """The layer that `_layer_tensors` took apart."""
    is_soft = "ratio_logits" in tensors
    candidates = tensors["candidates"] if is_soft else tensors["assignments"][..., None]
    logits = tensors["ratio_logits"].reshape(candidates.shape) if is_soft else None
    layer = VQLinear(
        codebook=tensors["codebook"],
        candidates=candidates,
        ratio_logits=logits,
        bias=tensors["bias"],
        layout=spec.layout,
    )
    if is_soft:
        layer.frozen.copy_(tensors["frozen"])
    return layer


def _check_settings(folder: Path, found: str, needed: str) -> None:
    """Settings of stored units must equal those of this run, the distillation's apart."""
    try:
        old, new = (_without_distillation(json.loads(text)) for text in (found, needed))
        differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    except (ValueError, AttributeError, TypeError, KeyError):
        differing = ["settings.json is damaged"]
    if differing:
        raise ArtifactError(
            f"{folder}: was made with other settings (differing: {', '.join(differing)}); "
            "use the same options and file, or calibrate without --resume to start anew"
        )


def _without_distillation(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that finished blocks follow from."""
    recipe = {k: v for k, v in settings["recipe"].items() if not k.startswith("distill_")}
    return {**settings, "recipe": recipe}


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file of the workspace whole or not at all."""
    try:
        with atomic_path(path) as temporary:
            write(temporary)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{path}: could not be written ({error}); free space and go on with --resume"
        ) from error
