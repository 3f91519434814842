"""Tell what a checkpoint, artifact or engine holds, layer by layer: bits, bytes, hashes.

Lists every linear of a block that is not quantized. With --shapes it accounts for a model of the
paper without any file.
"""

from __future__ import annotations

import argparse
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import OptionError

if TYPE_CHECKING:
    from ..accounting import LayerSize, ModelSize
    from ..calibrate.checkpoint import Checkpoint

_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I8": 1, "U8": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vq4dit inspect`."""
    parser.add_argument("path", nargs="?", type=Path, help="checkpoint, artifact or engine")
    parser.add_argument("--shapes", metavar="MODEL", help="a model by name, such as DiT-XL/2")
    parser.add_argument("--bits", type=int, default=2, help="with --shapes: 1, 2, 3 or 4")
    parser.add_argument(
        "--picture-size", type=int, default=256, help="with --shapes: height and width in pixels"
    )
    parser.add_argument(
        "--qkv-row-groups", type=int, default=3, help="with --shapes: codebooks of attn.qkv"
    )
    parser.add_argument("--num-heads", type=int, help="of a checkpoint of unusual width")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Account for what is named, print it."""
    if (args.path is None) == (args.shapes is None):
        raise OptionError("name either a PATH or --shapes MODEL, such as --shapes DiT-XL/2")
    if args.path is not None and _has_plans(args.path):
        return _inspect_plans(args)
    result, size = _from_shapes(args) if args.path is None else _from_path(args)
    if not args.json:
        print("\n".join(layer_line(layer) for layer in size.layers))
        print("\n".join(summary_lines(result, size)))
    return {**result, **size.to_dict()}


def layer_line(layer: LayerSize) -> str:
    """One line of at most 80 columns on one linear."""
    shape = f"{layer.shape[0]}x{layer.shape[1]}"
    codebook = "dense"
    if layer.is_quantized:
        codebook = f"{layer.row_groups}x{layer.codebook_size}x{layer.sub_vector_len}"
    return (
        f"{layer.name:<28}{shape:>10}{layer.bits_per_weight:>8.3f}{codebook:>10}"
        f"{layer.bytes:>13,}  {(layer.sha256 or '')[:8]}"
    ).rstrip()


def summary_lines(result: dict[str, Any], size: ModelSize) -> list[str]:
    """Totals, and what is not quantized."""
    from ..accounting import MIB

    num_quantized = len(size.layers) - len(size.unquantized)
    lines = [
        "(layer, shape, bits per weight, codebook RxKxd, bytes, sha256)",
        f"{result['kind']}: {num_quantized} of {len(size.layers)} block linears quantized",
        f"bits per weight: {size.bits_per_weight:.4f} = "
        f"{size.assignment_bits_per_weight:.4f} assignments + "
        f"{size.codebook_bits_per_weight:.4f} codebooks" + (" + dense" if size.unquantized else ""),
        f"whole model: {size.total_bytes:,} bytes = {size.total_bytes / MIB:.2f} MiB",
        f"by the paper's accounting (blocks, float32 codebooks and biases): "
        f"{size.paper_accounting_mib:.2f} MiB",
    ]
    if 0 < len(size.unquantized):
        lines.append("not quantized: " + _shortened(size.unquantized))
    if "num_codebook_nodes" in result:
        lines.append(
            f"{result['form']} form, {result['num_codebook_nodes']} nodes of domain vq4dit; every "
            "linear of the step model is what the manifest says"
        )
    return lines


def _shortened(names: tuple[str, ...]) -> str:
    """At most eight names, then how many more."""
    more = f", and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _from_shapes(args: argparse.Namespace) -> tuple[dict[str, Any], ModelSize]:
    from ..accounting import config_from_preset, size_from_shapes

    config = config_from_preset(args.shapes, args.picture_size)
    size = size_from_shapes(config, args.bits, row_groups={"attn.qkv": args.qkv_row_groups})
    return {"kind": "shapes", "model": config.to_dict()}, size


def _from_path(args: argparse.Namespace) -> tuple[dict[str, Any], ModelSize]:
    from ..engines.manifest import MANIFEST_NAME

    path: Path = args.path
    if path.is_dir() and (path / MANIFEST_NAME).exists():
        return _from_engine(path)
    return _from_weights(args)


def _has_plans(path: Path) -> bool:
    """Whether this is an engine whose models are plans."""
    from ..engines.manifest import MANIFEST_NAME, PLAN_TARGETS, load_manifest

    if not (path.is_dir() and (path / MANIFEST_NAME).exists()):
        return False
    return load_manifest(path).target in PLAN_TARGETS


def _inspect_plans(args: argparse.Namespace) -> dict[str, Any]:
    """Print what the manifest says of an engine's plans."""
    from ..engines.manifest import load_manifest, verify_files
    from ..plan_contents import plan_contents, plan_lines

    manifest = load_manifest(args.path)
    verify_files(args.path, manifest)
    contents = plan_contents(manifest)
    if not args.json:
        print("\n".join(plan_lines(contents)))
    return contents


def _from_engine(directory: Path) -> tuple[dict[str, Any], ModelSize]:
    from ..engine_contents import read_engine_contents
    from ..engines.manifest import load_manifest, verify_files

    manifest = load_manifest(directory)
    verify_files(directory, manifest)
    contents = read_engine_contents(directory, manifest)
    result = {
        "kind": "engine",
        "target": manifest.target,
        "form": manifest.form,
        "model": manifest.model.to_dict(),
        "source_sha256": manifest.source_sha256,
        "num_codebook_nodes": contents.num_codebook_nodes,
        "files": {role: entry.to_dict() for role, entry in manifest.files.items()},
    }
    return result, contents.size


def _from_weights(args: argparse.Namespace) -> tuple[dict[str, Any], ModelSize]:
    from ..accounting import size_from_weights
    from ..calibrate.artifact import Artifact, is_artifact
    from ..calibrate.source import open_weights

    options = None
    path: Path = args.path
    is_safetensors = path.suffix == ".safetensors" and path.is_file()
    if args.num_heads is not None and not (is_safetensors and is_artifact(path)):
        from ..calibrate.checkpoint import CheckpointOptions

        options = CheckpointOptions(num_heads=args.num_heads)
    source = open_weights(path, options)
    files = (path,) if isinstance(source, Artifact) else cast("Checkpoint", source).files
    size = size_from_weights(source, _stored_bytes(path) if is_safetensors else None)
    result: dict[str, Any] = {
        "kind": "artifact" if isinstance(source, Artifact) else "checkpoint",
        "model": source.config.to_dict(),
        "sha256": source.sha256,
        "file_bytes": sum(file.stat().st_size for file in files),
    }
    if isinstance(source, Artifact):
        result["source_sha256"] = source.info.source_sha256
        result["calibration"] = dict(source.info.calibration)
    return result, size


def _stored_bytes(path: Path) -> dict[str, int]:
    """Bytes of each tensor of a safetensors file, by its header."""
    from ..calibrate.artifact import open_safetensors

    file = open_safetensors(path)
    sizes = {}
    for name in file.keys():
        header = file.get_slice(name)
        sizes[name] = prod(header.get_shape()) * _DTYPE_BYTES.get(header.get_dtype(), 4)
    return sizes
