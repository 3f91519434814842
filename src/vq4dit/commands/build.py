"""Build an engine directory from an artifact (X.vq.safetensors) or an unquantized checkpoint.

The engine holds the step model in the target's form (for TensorRT a plan), the decoder if a VAE
folder is given, and a manifest with hashes and a self-test. It is written beside OUTPUT and renamed
at the end; an older engine there is replaced.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vq4dit.commands.cfg_channels import add_cfg_channels_argument
from vq4dit.commands.plan_arguments import add_plan_arguments, plan_options
from vq4dit.errors import OptionError

if TYPE_CHECKING:
    from vq4dit.weight_source import WeightSource

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vq4dit build`."""
    parser.add_argument("source", type=Path, help="artifact, or checkpoint with --weights")
    parser.add_argument("-o", "--output", type=Path, required=True, help="engine directory to make")
    parser.add_argument("--target", default="cpu", help="cpu, onnx, tensorrt or tensorrt-rtx")
    parser.add_argument(
        "--weights",
        choices=("fp32", "fp16", "bf16"),
        default=None,
        help="type of weights and arithmetic: needed for an unquantized checkpoint; of an artifact "
        "the target's own if not given",
    )
    parser.add_argument(
        "--vae",
        type=Path,
        help="AutoencoderKL or AutoencoderTiny: a diffusers folder or a safetensors file; without "
        "it no pictures",
    )
    parser.add_argument(
        "--vae-tile",
        type=int,
        help="decode latents in overlapping tiles of this size, for less memory; 32 for pictures "
        "of 512 x 512 gives tiles of 256 x 256",
    )
    parser.add_argument(
        "--no-cfg", action="store_true", help="no classifier-free guidance: half the work per step"
    )
    add_cfg_channels_argument(parser, default="3")
    parser.add_argument(
        "--label-names", type=Path, help="text file with one label name per line, class 0 first"
    )
    add_plan_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Build the engine; returns its path, target and sizes."""
    from vq4dit.calibrate.source import open_weights
    from vq4dit.engines.build import build_engine
    from vq4dit.engines.targets import chosen_weights, require_target
    from vq4dit.label_names import read_label_names
    from vq4dit.plan_contents import linears_by_way

    target = require_target(args.target)  # before minutes of reading
    chosen_weights(target, args.weights)
    options = plan_options(args)
    cfg_channels = args.cfg_channels
    names = None if args.label_names is None else read_label_names(args.label_names)
    source = open_weights(args.source)
    _check_weights_option(args.source, source, args.weights, target.weights)
    manifest = build_engine(
        source,
        args.output,
        target=args.target,
        weights=args.weights,
        vae=args.vae,
        vae_tile=args.vae_tile,
        cfg=not args.no_cfg,
        cfg_channels=cfg_channels,
        label_names=names,
        plan_options=options,
        progress=lambda stage: _log.info("%s ...", stage),
        plan_progress=lambda phase, done, steps: _log.info("  %s: %d of %d", phase, done, steps),
    )
    sizes = {role: entry.bytes for role, entry in manifest.files.items()}
    total_bytes = sum(sizes.values())
    result = {
        "engine": str(args.output),
        "target": manifest.target,
        "form": manifest.form,
        "weights": manifest.compute_dtype,
        "cfg": manifest.cfg,
        "source_sha256": manifest.source_sha256,
        "files": sizes,
        "total_bytes": total_bytes,
        "mean_bits_per_weight": _mean_bits(manifest.bits_per_weight, source),
    }
    linears = linears_by_way(manifest)
    if linears:
        result["linears"] = linears
    if not args.json and not args.quiet:
        print(
            f"{args.output}: engine for target {manifest.target}, "
            f"{total_bytes / 2**20:.2f} MiB, "
            f"{result['mean_bits_per_weight']:.3f} bits per weight of the blocks' linears"
        )
        if linears:
            print(
                f"of the quantized linears {len(linears['gather'])} gathered by one kernel, "
                f"{len(linears['decode'])} decoded before a product"
            )
    return result


def _check_weights_option(
    path: Path, source: WeightSource, weights: str | None, known: tuple[str, ...]
) -> None:
    """An unquantized file needs --weights; a quantized one where the target leaves a choice."""
    linears = source.config.block_linear_shapes()
    is_quantized = any(source.quantized_layer(name) is not None for name in linears)
    if is_quantized and weights is not None and len(known) == 1:
        raise OptionError(
            f"{path} is quantized, so --weights {weights} does not apply; leave it out"
        )
    if not is_quantized and weights is None:
        raise OptionError(
            f"{path} is not quantized; calibrate it first (`vq4dit calibrate {path} -o "
            f"X.vq.safetensors`), or build it as it is with --weights {' or '.join(known)}"
        )


def _mean_bits(bits_per_weight: dict[str, float], source: WeightSource) -> float:
    """Mean over all weights of the blocks' linears."""
    sizes = {name: o * i for name, (o, i) in source.config.block_linear_shapes().items()}
    total = sum(bits_per_weight[name] * size for name, size in sizes.items())
    return total / sum(sizes.values())
