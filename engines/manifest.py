"""manifest.json of an engine directory: what it holds, for whom, and the hash of every file.

Written last by `build`, read and checked first by everything that opens an engine. Needs neither
the model nor a backend; a manifest is hostile until `manifest_from_json` has checked it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from vq4dit.engine_files import ROLES, FileEntry, check_files, entries_from_json
from vq4dit.errors import ArtifactError
from vq4dit.gpu_build import GpuBuild
from vq4dit.json_fields import Fields, parse_json
from vq4dit.model_config import ModelConfig

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"

#: Targets whose step model and decoder are TensorRT plans.
PLAN_TARGETS = ("tensorrt", "tensorrt-rtx")

_MAX_MANIFEST_BYTES = 16 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class TrainingSchedule:
    """Evenly spaced betas that the model was trained with."""

    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is known of an engine without loading it.

    Args:
        target: name in the table of targets; form: "function", "inlined" or "plugin".
        model: sizes of the DiT.
        label_names: one per class, or empty.
        schedule: betas of the training schedule.
        latent_shape: (C, H, W) of one latent.
        image_shape: (C, H, W) of one picture; equals latent_shape for a pixel model.
        batch_min, batch_max: samples of one step; batch_max None means any number.
        compute_dtype: dtype of the model's weights and activations; label_dtype: of input label.
        cfg: whether the step doubles its batch for classifier-free guidance.
        cfg_channels: leading latent channels that guidance acts on.
        latent_scaling_factor: latents are VAE codes times this factor.
        files: role -> file.
        bits_per_weight: linear of a block -> bits, codebooks included; 32 or 16 where dense.
        source_sha256: hash of the artifact or checkpoint that the engine was built from.
        tool_versions: what built it.
        decoder_tile: H and W of the latents that the decoder takes, where it decodes tile by tile;
            None where it takes whole latents.
        tensorrt: facts about the plans of PLAN_TARGETS, None for other targets.
    """

    target: str
    form: str
    model: ModelConfig
    label_names: tuple[str, ...]
    schedule: TrainingSchedule
    latent_shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    batch_min: int
    batch_max: int | None
    compute_dtype: str
    label_dtype: str
    cfg: bool
    cfg_channels: int
    latent_scaling_factor: float
    files: dict[str, FileEntry]
    bits_per_weight: dict[str, float]
    source_sha256: str
    tool_versions: dict[str, str]
    decoder_tile: int | None = None
    tensorrt: GpuBuild | None = None


def load_manifest(directory: Path) -> Manifest:
    """Read and check DIRECTORY/manifest.json.

    Raises:
        ArtifactError: no such directory or manifest, not JSON, or a value of a wrong type or range.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise ArtifactError(
            f"{directory}: found no {MANIFEST_NAME}, so this is not an engine directory; "
            "make one with `vq4dit build X.vq.safetensors -o DIR`"
        )
    size = path.stat().st_size
    if size > _MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{path}: is {size} bytes long, needed at most {_MAX_MANIFEST_BYTES}")
    try:
        return manifest_from_json(path.read_bytes())
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}; build the engine again") from None


def manifest_to_json(manifest: Manifest) -> bytes:
    """The manifest as indented UTF-8 JSON, keys in a fixed order."""
    m = manifest
    values = {
        "format_version": FORMAT_VERSION,
        "target": m.target,
        "form": m.form,
        "model": m.model.to_dict(),
        "label_names": list(m.label_names),
        "schedule": {"kind": "linear", **vars(m.schedule)},
        "latent_shape": list(m.latent_shape),
        "image_shape": list(m.image_shape),
        "batch": {"min": m.batch_min, "max": m.batch_max},
        "dtypes": {"compute": m.compute_dtype, "label": m.label_dtype},
        "cfg": m.cfg,
        "cfg_channels": m.cfg_channels,
        "latent_scaling_factor": m.latent_scaling_factor,
        "files": {role: m.files[role].to_dict() for role in ROLES if role in m.files},
        "bits_per_weight": m.bits_per_weight,
        "source_sha256": m.source_sha256,
        "tool_versions": m.tool_versions,
    }
    if m.decoder_tile is not None:
        values["decoder_tile"] = m.decoder_tile
    if m.tensorrt is not None:
        values["tensorrt"] = m.tensorrt.to_dict()
    return (json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def manifest_from_json(data: bytes) -> Manifest:
    """Parse and check a manifest.

    Raises:
        ArtifactError: naming the key, what was found and what was needed.
    """
    root = Fields(parse_json(data, "manifest"), "manifest")
    version = root.integer("format_version", 0, 1 << 31)
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"format_version is {version}, this program reads {FORMAT_VERSION}; "
            "use the program that built the engine, or build it again with this one"
        )
    model = ModelConfig.from_dict(root.mapping("model"))
    schedule = root.fields("schedule")
    schedule.choice("kind", ("linear",))
    batch = root.fields("batch")
    dtypes = root.fields("dtypes")
    manifest = Manifest(
        target=root.text("target"),
        form=root.choice("form", ("function", "inlined", "plugin")),
        model=model,
        label_names=root.texts("label_names"),
        schedule=TrainingSchedule(
            num_timesteps=schedule.integer("num_timesteps", 1, 100_000),
            beta_start=schedule.number("beta_start", 0.0, 1.0),
            beta_end=schedule.number("beta_end", 0.0, 1.0),
        ),
        latent_shape=root.shape("latent_shape"),
        image_shape=root.shape("image_shape"),
        batch_min=batch.integer("min", 1, 1 << 20),
        batch_max=batch.optional_integer("max", 1, 1 << 20),
        compute_dtype=dtypes.choice("compute", ("float32", "float16", "bfloat16")),
        label_dtype=dtypes.choice("label", ("int64", "int32")),
        cfg=root.boolean("cfg"),
        cfg_channels=root.integer("cfg_channels", 0, model.in_channels),
        latent_scaling_factor=root.number("latent_scaling_factor", 1e-6, 1e6),
        files=entries_from_json(root.mapping("files")),
        bits_per_weight=_bits(root.fields("bits_per_weight")),
        source_sha256=root.pattern("source_sha256", _SHA256),
        tool_versions=_versions(root.fields("tool_versions")),
        decoder_tile=(
            root.integer("decoder_tile", 1, model.input_size)
            if "decoder_tile" in root.values
            else None
        ),
        tensorrt=(
            GpuBuild.from_fields(root.fields("tensorrt")) if "tensorrt" in root.values else None
        ),
    )
    for fields in (root, schedule, batch, dtypes):
        fields.refuse_unknown()
    _check_consistent(manifest)
    return manifest


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Compare size and SHA-256 of every file with the manifest.

    Raises:
        ArtifactError: a file is missing, of another size, or of another hash.
    """
    check_files(directory, manifest.files)


def _check_consistent(manifest: Manifest) -> None:
    """Values that are fine one by one must also fit each other."""
    model = manifest.model
    needed = (model.in_channels, model.input_size, model.input_size)
    if manifest.latent_shape != needed:
        raise ArtifactError(f"latent_shape is {manifest.latent_shape}, the model needs {needed}")
    if manifest.label_names and len(manifest.label_names) != model.num_classes:
        raise ArtifactError(
            f"label_names has {len(manifest.label_names)} names, "
            f"the model has {model.num_classes} classes"
        )
    if (manifest.target in PLAN_TARGETS) != (manifest.tensorrt is not None):
        raise ArtifactError(
            f"target {manifest.target} {'lacks' if manifest.tensorrt is None else 'has'} the key "
            f"'tensorrt', which targets {' and '.join(PLAN_TARGETS)} have and no others"
        )
    if manifest.batch_max is not None and manifest.batch_max < manifest.batch_min:
        raise ArtifactError(
            f"batch.max {manifest.batch_max} is below batch.min {manifest.batch_min}"
        )
    if MANIFEST_NAME in (entry.name for entry in manifest.files.values()):
        raise ArtifactError(f"files names {MANIFEST_NAME} itself")
    unknown = sorted(set(manifest.bits_per_weight) - set(model.block_linear_shapes()))
    if unknown:
        raise ArtifactError(f"bits_per_weight names {unknown[0]!r}, which the model does not have")
    decoded = () if manifest.tensorrt is None else manifest.tensorrt.decoded_linears
    unknown = sorted(set(decoded) - set(model.block_linear_shapes()))
    if unknown:
        raise ArtifactError(
            f"tensorrt.decoded_linears names {unknown[0]!r}, which the model does not have"
        )


def _bits(fields: Fields) -> dict[str, float]:
    return {name: fields.number(name, 0.0, 64.0) for name in fields.values}


def _versions(fields: Fields) -> dict[str, str]:
    return {name: fields.text(name) for name in fields.values}
