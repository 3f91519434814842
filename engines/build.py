"""Build an engine directory: export step and decoder, test them once, write the manifest."""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from safetensors.numpy import save

import vq4dit
from vq4dit.errors import ArtifactError, OptionError
from vq4dit.model_config import ModelConfig
from vq4dit.runtime.ort_session import OrtDecoderSession, OrtStepSession
from vq4dit.runtime.selftest import selftest_inputs, selftest_tensors
from vq4dit.weight_source import WeightSource

from .directory import new_directory
from .manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    TrainingSchedule,
    file_entry,
    manifest_to_json,
)
from .targets import Target, require_target

_log = logging.getLogger(__name__)

SELFTEST_NAME = "selftest.safetensors"

#: Bits of one weight of a layer that is not quantized, by compute dtype.
_DENSE_BITS = {"float32": 32.0}

#: Packages whose versions the manifest records, where they are installed.
_TOOLS = ("numpy", "onnx", "onnxruntime", "torch", "diffusers")


def build_engine(
    source: WeightSource,
    out_dir: Path,
    *,
    target: str,
    vae: Path | None = None,
    cfg: bool = True,
    cfg_channels: int | None = 3,
    label_names: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Manifest:
    """Build an engine directory, all or nothing, over an older engine if there is one.

    Args:
        source: the weights, quantized or not.
        out_dir: the directory to make.
        target: name in `targets.TARGETS`.
        vae: folder of a diffusers AutoencoderKL, None for an engine without a decoder.
        cfg: double the batch for classifier-free guidance.
        cfg_channels: leading channels that guidance acts on, None for all.
        label_names: one name per class, None for those of the source.
        progress: called with the name of each stage.
    Returns:
        The manifest as written.
    Raises:
        OptionError: unknown target, an option out of range, or out_dir holds something else.
        BackendUnavailable: the target cannot be built here.
        ArtifactError: the weights are damaged or give NaN.
        OSError: writing failed; nothing is left.
    """
    chosen = require_target(target)
    names = tuple(source.label_names if label_names is None else label_names)
    _check_label_names(names, source.config)
    say = progress or (lambda stage: None)
    with new_directory(out_dir) as work:
        say("writing the step model")
        channels = _export_step(source, work, chosen, cfg=cfg, cfg_channels=cfg_channels)
        if vae is not None:
            say("writing the decoder")
            _export_decoder(vae, work, source)
        say("running the self-test")
        manifest = _manifest(source, chosen, names, work, cfg=cfg, cfg_channels=channels)
        manifest = _write_selftest(manifest, work)
        (work / MANIFEST_NAME).write_bytes(manifest_to_json(manifest))
    return manifest


def _export_step(
    source: WeightSource, work: Path, target: Target, *, cfg: bool, cfg_channels: int | None
) -> int:
    """Write and check step.onnx and its data; returns the number of guided channels."""
    from vq4dit.export.check import check_model
    from vq4dit.export.step import build_step_model

    model = build_step_model(
        source,
        work,
        form=target.form,
        cfg=cfg,
        cfg_channels=cfg_channels,
        assignment_layout=target.assignment_layout,
    )
    check_model(model.path)
    return model.cfg_channels if cfg else 0


def _export_decoder(vae: Path, work: Path, source: WeightSource) -> None:
    """Write and check decoder.onnx and its data; the weights' own scaling factor counts."""
    from vq4dit.export.check import check_model
    from vq4dit.export.decoder import build_decoder_model
    from vq4dit.export.vae_folder import VaeFolder

    with VaeFolder(vae) as folder:
        channels, factor = folder.config.latent_channels, folder.config.scaling_factor
    if channels != source.config.in_channels:
        raise ArtifactError(
            f"{vae}: the VAE has {channels} latent channels, the model "
            f"{source.config.in_channels}; "
            "give the VAE that the model was trained with"
        )
    if not math.isclose(factor, source.latent_scaling_factor, rel_tol=1e-4):
        _log.warning(
            "the weights say that latents are scaled by %g, the VAE in %s says %g; using the first",
            source.latent_scaling_factor, vae, factor,
        )  # fmt: skip
    model = build_decoder_model(
        vae,
        work,
        latent_size=source.config.input_size,
        scaling_factor=source.latent_scaling_factor,
    )
    check_model(model.path)


def _manifest(
    source: WeightSource,
    target: Target,
    label_names: tuple[str, ...],
    work: Path,
    *,
    cfg: bool,
    cfg_channels: int,
) -> Manifest:
    """The manifest without self-test and with the latent as the picture."""
    config = source.config
    shape = (config.in_channels, config.input_size, config.input_size)
    return Manifest(
        target=target.name,
        form=target.form,
        model=config,
        label_names=label_names,
        schedule=TrainingSchedule(),
        latent_shape=shape,
        image_shape=shape,
        batch_min=1,
        batch_max=None,
        compute_dtype="float32",
        label_dtype="int64",
        cfg=cfg,
        cfg_channels=cfg_channels,
        latent_scaling_factor=source.latent_scaling_factor,
        files=_file_entries(work),
        bits_per_weight=_bits_per_weight(source),
        source_sha256=source.sha256,
        tool_versions=_tool_versions(),
    )


def _write_selftest(manifest: Manifest, work: Path) -> Manifest:
    """Run the golden self-test by the function bodies; add its file and the picture's shape."""
    session = OrtStepSession(work / manifest.files["step"].name, library=None, accuracy="exact")
    decoder = None
    if "decoder" in manifest.files:
        decoder = OrtDecoderSession(work / manifest.files["decoder"].name)
    tensors = selftest_tensors(selftest_inputs(manifest), session, decoder)
    for name in ("latent_out", "x_start"):
        if not np.isfinite(tensors[name]).all():
            raise ArtifactError(
                f"the self-test's {name} has NaN or infinite values: the weights are damaged, or "
                "too large for float32"
            )
    path = work / SELFTEST_NAME
    path.write_bytes(save(tensors))  # save_file would make it private to this user
    image_shape = manifest.image_shape
    if "image" in tensors:
        _, height, width, channels = tensors["image"].shape
        image_shape = (channels, height, width)
    files = {**manifest.files, "selftest": file_entry(path)}
    return replace(manifest, files=files, image_shape=image_shape)


def _file_entries(work: Path) -> dict[str, FileEntry]:
    """The files that export wrote, by role."""
    names = {
        "step": "step.onnx",
        "step_data": "step.onnx.data",
        "decoder": "decoder.onnx",
        "decoder_data": "decoder.onnx.data",
    }
    return {
        role: file_entry(work / name) for role, name in names.items() if (work / name).is_file()
    }


def _bits_per_weight(source: WeightSource) -> dict[str, float]:
    """Bits of every linear of every block, codebooks included."""
    bits = {}
    for name in source.config.block_linear_shapes():
        layer = source.quantized_layer(name)
        bits[name] = _DENSE_BITS["float32"] if layer is None else layer.bits_per_weight
    return bits


def _check_label_names(names: tuple[str, ...], config: ModelConfig) -> None:
    if names and len(names) != config.num_classes:
        raise OptionError(
            f"found {len(names)} label names, the model has {config.num_classes} classes; "
            "give one name per class, in the order of the labels"
        )
    if len(set(names)) != len(names):
        raise OptionError("a label name occurs twice; names must tell classes apart")


def _tool_versions() -> dict[str, str]:
    versions = {"vq4dit": vq4dit.__version__, "python": platform.python_version()}
    for name in _TOOLS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
