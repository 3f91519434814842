"""Quantize a DiT checkpoint: codebooks and assignments for every linear of every block.

Takes facebookresearch checkpoints (.pt or .safetensors) and diffusers folders. The result,
NAME.vq.safetensors, goes to `vq4dit build`. No data set is needed: the model's own sampling
trajectories calibrate it.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from ..errors import BackendUnavailable, OptionError
from .calibration_compute import add_compute_arguments, compute_options, set_threads
from .calibration_summary import (
    add_report_argument,
    check_report_path,
    summary_table,
    write_report_files,
)
from .precision_arguments import add_precision_arguments, bytes_from_text, keep_from_texts

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vq4dit calibrate`."""
    parser.add_argument(
        "checkpoint", type=Path, help="DiT checkpoint: .pt, .safetensors or diffusers folder"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="NAME.vq.safetensors")
    add_precision_arguments(parser)
    parser.add_argument(
        "--method",
        choices=("vq4dit", "kmeans"),
        default=None,
        help="kmeans: plain K-Means, no calibration, the baseline; short for --recipe kmeans",
    )
    parser.add_argument(
        "--recipe",
        choices=("vq4dit", "paper", "reference", "kmeans"),
        default=None,
        help="settings of the calibration: ours (default), the paper's, its published code's, or "
        "none",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    add_compute_arguments(parser)
    parser.add_argument(
        "--resume", action="store_true", help="go on from an interrupted run's finished units"
    )
    parser.add_argument("--model", default=None, help="check that it is this one, e.g. DiT-XL/2")
    parser.add_argument("--num-heads", type=int, default=None, help="for widths not in the paper")
    parser.add_argument(
        "--label-names", type=Path, default=None, help="text file, one label name per line"
    )
    add_report_argument(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Calibrate with a progress bar; returns the summary."""
    from ..label_names import read_label_names
    from ..stage_bar import StageBar

    try:
        from ..calibrate.checkpoint import CheckpointOptions
        from ..calibrate.run import calibrate
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"calibration needs the module {error.name}; pip install 'vq4dit[calibrate]'"
        ) from None
    if args.report is not None:
        check_report_path(args.report)
    recipe = _recipe(args)
    set_threads(args)
    names = () if args.label_names is None else read_label_names(args.label_names)
    options = CheckpointOptions(model=args.model, num_heads=args.num_heads, label_names=names)
    with StageBar(quiet=args.quiet) as bar:
        summary = calibrate(
            args.checkpoint,
            args.output,
            bits=args.bits,
            keep=keep_from_texts(args.keep),
            target_bits=args.target_bits,
            target_bytes=None if args.target_size is None else bytes_from_text(args.target_size),
            recipe=recipe,
            seed=args.seed,
            resume=args.resume,
            options=options,
            **compute_options(args),
            progress=bar,
        )
    size = args.output.stat().st_size
    files = {} if args.report is None else write_report_files(args.report, summary)
    if not args.json and not args.quiet:
        print("\n".join(summary_table(summary)))
        print(f"{args.output}: {size / 2**20:.2f} MiB")
        print("\n".join(files.values()), end="\n" if files else "")
    return {"output": str(args.output), "total_bytes": size, **files, **summary.to_dict()}


def _recipe(args: argparse.Namespace) -> str:
    """The recipe that --method and --recipe name; OptionError if they name different ones."""
    recipe: str = args.recipe or args.method or "vq4dit"
    if args.method is not None and (args.method == "kmeans") != (recipe == "kmeans"):
        raise OptionError(
            f"--method {args.method} does not go with --recipe {recipe}; give one of them"
        )
    return recipe
