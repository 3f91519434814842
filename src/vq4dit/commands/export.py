"""Write the ONNX step model of an artifact or a checkpoint, and the VAE decoder beside it."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from ..errors import OptionError
from .cfg_channels import add_cfg_channels_argument

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vq4dit export`."""
    parser.add_argument("weights", type=Path, metavar="X", help="artifact or checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True, help="directory to make")
    parser.add_argument(
        "--form",
        choices=("function", "inlined", "plugin"),
        default="function",
        help="how the quantized layers are written: with function bodies (any ONNX Runtime), with "
        "the bodies inlined (TensorRT-RTX), or as bare nodes for the GPU kernels (TensorRT)",
    )
    parser.add_argument(
        "--weights",
        dest="element_type",
        choices=("fp32", "fp16", "bf16"),
        help="type of weights and arithmetic; fp16 for form plugin if not given, else fp32",
    )
    parser.add_argument(
        "--linears",
        choices=("gather", "decode"),
        default="gather",
        help="how quantized layers are written: as one node each, or as a node that decodes the "
        "weight to memory and a standard product, which is faster for many rows on some GPUs",
    )
    parser.add_argument(
        "--vae",
        type=Path,
        help="AutoencoderKL or AutoencoderTiny to decode with: a diffusers folder or a "
        "safetensors file",
    )
    parser.add_argument("--no-cfg", action="store_true", help="no classifier-free guidance inside")
    add_cfg_channels_argument(parser, default="3")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Export into a new directory and check each file."""
    channels = args.cfg_channels
    if args.output.is_dir() and any(args.output.iterdir()):
        raise OptionError(f"{args.output} is not empty; choose another -o, or empty it")
    from vq4dit.calibrate.source import open_weights
    from vq4dit.engines.directory import new_directory
    from vq4dit.export.check import check_model
    from vq4dit.export.decoder import build_decoder_model
    from vq4dit.export.linear_ways import always
    from vq4dit.export.step import build_step_model
    from vq4dit.plugins.layout import AssignmentLayout

    source = open_weights(args.weights)
    is_plugin = args.form == "plugin"
    with new_directory(args.output) as work:
        step = build_step_model(
            source,
            work,
            form=args.form,
            cfg=not args.no_cfg,
            cfg_channels=channels,
            assignment_layout=AssignmentLayout.MMA_LANES if is_plugin else AssignmentLayout.ROWS,
            weights=args.element_type or ("fp16" if is_plugin else "fp32"),
            choose_way=always(args.linears),
        )
        check_model(step.path)
        image_shape = None
        if args.vae is not None:
            decoder = build_decoder_model(
                args.vae,
                work,
                latent_size=source.config.input_size,
                latent_channels=source.config.in_channels,
                scaling_factor=source.latent_scaling_factor,
            )
            check_model(decoder.path)
            image_shape = list(decoder.image_shape)
        files = {path.name: path.stat().st_size for path in sorted(work.iterdir())}
    for name, size in files.items():
        _log.info("%s  %d bytes", args.output / name, size)
    return {
        "directory": str(args.output),
        "form": step.form,
        "cfg": step.cfg,
        "cfg_channels": step.cfg_channels if step.cfg else 0,
        "codebook_nodes": step.num_codebook_nodes,
        "decoded_linears": len(step.decoded),
        "image_shape": image_shape,
        "files": files,
    }
