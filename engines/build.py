"""Build an engine directory: export models, build plans, test once, write the manifest."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

import vq4dit
from vq4dit.engine_files import FileEntry, file_entry
from vq4dit.errors import ArtifactError, OptionError
from vq4dit.model_config import ModelConfig
from vq4dit.packed_plan import PACKED_SUFFIX
from vq4dit.runtime.ort_session import OrtDecoderSession, OrtStepSession
from vq4dit.runtime.selftest import selftest_inputs, selftest_tensors
from vq4dit.runtime.tiled_decoder import with_tiles
from vq4dit.weight_source import WeightSource

from .directory import new_directory
from .exports import Vae, export_decoder, export_step
from .manifest import (
    MANIFEST_NAME,
    PLAN_TARGETS,
    Manifest,
    TrainingSchedule,
    manifest_to_json,
)
from .plan_builder import PlanProgress
from .plan_engine import (
    DECODER_PLAN_NAME,
    STEP_PLAN_NAME,
    BuiltPlans,
    PlanBuilder,
)
from .plan_options import PlanOptions
from .targets import TARGETS, Target, chosen_weights, require_target

SELFTEST_NAME = "selftest.safetensors"

#: `--weights` -> what the manifest says, and bits of one weight of a layer that is not quantized.
_ELEMENTS = {"fp32": ("float32", 32.0), "fp16": ("float16", 16.0), "bf16": ("bfloat16", 16.0)}

#: Packages whose versions the manifest records, where they are installed.
_TOOLS = ("numpy", "onnx", "onnxruntime", "torch", "diffusers", "polygraphy")


def build_engine(
    source: WeightSource,
    out_dir: Path,
    *,
    target: str,
    weights: str | None = None,
    vae: Path | None = None,
    vae_tile: int | None = None,
    cfg: bool = True,
    cfg_channels: int | None = 3,
    label_names: Sequence[str] | None = None,
    plan_options: PlanOptions | None = None,
    progress: Callable[[str], None] | None = None,
    plan_progress: PlanProgress | None = None,
) -> Manifest:
    """Build an engine directory, all or nothing, over an older engine if there is one.

    Args:
        source: the weights, quantized or not.
        out_dir: the directory to make.
        target: name in `targets.TARGETS`.
        weights: element type of weights and arithmetic, None for the target's own.
        vae: diffusers folder or safetensors file of an AutoencoderKL or AutoencoderTiny, None for
            an engine without a decoder.
        vae_tile: H and W of the tiles in which latents are decoded, None for whole latents: less
            memory, but tiles are blended where they overlap.
        cfg: double the batch for classifier-free guidance.
        cfg_channels: leading channels that guidance acts on, None for all.
        label_names: one name per class, None for those of the source.
        plan_options: choices for the targets that build plans.
        progress: called with the name of each stage.
        plan_progress: called with a plan builder's phase, steps done and steps in all.
    Returns:
        The manifest as written.
    Raises:
        OptionError: unknown target, an option out of range or not for this target, or out_dir
            holds something else.
        BackendUnavailable: the target cannot be built here.
        ArtifactError: the weights are damaged or give NaN.
        OSError: writing failed; nothing is left.
    """
    chosen = require_target(target)
    element = chosen_weights(chosen, weights)
    options = plan_options or PlanOptions()
    if target in PLAN_TARGETS:
        options.check(target)
    elif plan_options is not None:
        raise OptionError(f"options of plans are for targets {' and '.join(PLAN_TARGETS)} only")
    names = tuple(source.label_names if label_names is None else label_names)
    _check_label_names(names, source.config)
    chosen_vae = _chosen_vae(source, vae, vae_tile)
    say = progress or (lambda stage: None)
    with new_directory(out_dir) as work:
        plans = None
        if target in PLAN_TARGETS:
            builder = PlanBuilder(
                target=chosen, weights=element, options=options, say=say, progress=plan_progress
            )
            plans = builder.build(source, work, vae=chosen_vae, cfg=cfg, cfg_channels=cfg_channels)
            channels = plans.cfg_channels
        else:
            channels = _export(source, work, chosen, element, chosen_vae, cfg, cfg_channels, say)
        manifest = _manifest(source, chosen, names, work, cfg=cfg, cfg_channels=channels)
        manifest = replace(
            manifest,
            compute_dtype=_ELEMENTS[element][0],
            decoder_tile=None if chosen_vae is None else chosen_vae.tile_size,
            bits_per_weight=_bits_per_weight(source, _ELEMENTS[element][1]),
        )
        if plans is not None:
            manifest = _with_plans(manifest, plans, options)
        say("running the self-test")
        manifest = _with_selftest(manifest, source, work, chosen_vae)
        (work / MANIFEST_NAME).write_bytes(manifest_to_json(manifest))
    return manifest


def _chosen_vae(source: WeightSource, path: Path | None, tile_size: int | None) -> Vae | None:
    if path is None:
        if tile_size is not None:
            raise OptionError("a tile size of the decoder was given, but no VAE; give both")
        return None
    vae = Vae(path=path, tile_size=tile_size)
    vae.check(source.config)
    return vae


def _export(
    source: WeightSource,
    work: Path,
    target: Target,
    weights: str,
    vae: Vae | None,
    cfg: bool,
    cfg_channels: int | None,
    say: Callable[[str], None],
) -> int:
    """Write the models themselves as the engine; returns the number of guided channels."""
    say("writing the step model")
    step = export_step(source, work, target, weights=weights, cfg=cfg, cfg_channels=cfg_channels)
    if vae is not None:
        say("writing the decoder")
        export_decoder(vae, work, source, weights="fp32")
    return step.guided_channels


def _with_plans(manifest: Manifest, plans: BuiltPlans, options: PlanOptions) -> Manifest:
    """The manifest of an engine whose models are plans."""
    return replace(
        manifest,
        batch_min=options.batch[0],
        batch_max=options.batch[2],
        tensorrt=plans.build,
        tool_versions={**manifest.tool_versions, manifest.target: plans.build.version},
    )


def _manifest(
    source: WeightSource,
    target: Target,
    label_names: tuple[str, ...],
    work: Path,
    *,
    cfg: bool,
    cfg_channels: int,
) -> Manifest:
    """The manifest without self-test, any batch, float32, and with the latent as the picture."""
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
        bits_per_weight={},
        source_sha256=source.sha256,
        tool_versions=_tool_versions(),
    )


def _with_selftest(
    manifest: Manifest, source: WeightSource, work: Path, vae: Vae | None
) -> Manifest:
    """Run the golden self-test in float32; add its file and the picture's shape.

    The models of an engine in float32 run themselves, by their function bodies. Others are compared
    with the same weights in float32, since their own arithmetic is what the self-test shall judge.
    """
    is_own = manifest.form == "function" and manifest.compute_dtype == "float32"
    if is_own:
        tensors = _golden_tensors(manifest, work)
    else:
        with tempfile.TemporaryDirectory(prefix="selftest.", dir=work) as name:
            channels = manifest.cfg_channels if manifest.cfg else None
            _export(
                source, Path(name), TARGETS["onnx"], "fp32", vae, manifest.cfg, channels,
                lambda stage: None,
            )  # fmt: skip
            tensors = _golden_tensors(manifest, Path(name))
    path = work / SELFTEST_NAME
    path.write_bytes(save(tensors))  # save_file would make it private to this user
    image_shape = manifest.image_shape
    if "image" in tensors:
        _, height, width, channels = tensors["image"].shape
        image_shape = (channels, height, width)
    files = {**manifest.files, "selftest": file_entry(path)}
    return replace(manifest, files=files, image_shape=image_shape)


def _golden_tensors(manifest: Manifest, folder: Path) -> dict[str, NDArray[Any]]:
    """Inputs and outputs of the self-test by the float32 models in a folder."""
    session = OrtStepSession(folder / "step.onnx", library=None, accuracy="exact")
    decoder = None
    if (folder / "decoder.onnx").is_file():
        decoder = with_tiles(OrtDecoderSession(folder / "decoder.onnx"), manifest)
    tensors = selftest_tensors(selftest_inputs(manifest), session, decoder)
    for name in ("latent_out", "x_start"):
        if not np.isfinite(tensors[name]).all():
            raise ArtifactError(
                f"the self-test's {name} has NaN or infinite values: the weights are damaged, or "
                "too large for float32"
            )
    return tensors


def _file_entries(work: Path) -> dict[str, FileEntry]:
    """The models that export or a plan builder wrote, by role."""
    names = {
        "step": ("step.onnx", STEP_PLAN_NAME, STEP_PLAN_NAME + PACKED_SUFFIX),
        "step_data": ("step.onnx.data",),
        "decoder": ("decoder.onnx", DECODER_PLAN_NAME, DECODER_PLAN_NAME + PACKED_SUFFIX),
        "decoder_data": ("decoder.onnx.data",),
    }
    return {
        role: file_entry(work / name)
        for role, known in names.items()
        for name in known
        if (work / name).is_file()
    }


def _bits_per_weight(source: WeightSource, dense_bits: float) -> dict[str, float]:
    """Bits of every linear of every block, codebooks included."""
    bits = {}
    for name in source.config.block_linear_shapes():
        layer = source.quantized_layer(name)
        bits[name] = dense_bits if layer is None else layer.bits_per_weight
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
