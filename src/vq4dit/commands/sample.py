"""Draw pictures with an engine and write them as PNG: one grid, or one file per picture.

The PNG's text says how the pictures were made. The same seed, labels and options give the same
pictures for any --batch-size.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vq4dit.errors import OptionError

if TYPE_CHECKING:
    from vq4dit.runtime.pipeline import Pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vq4dit sample`."""
    parser.add_argument("engine", type=Path, help="engine directory")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--labels", required=True, help="numbers or names, separated by commas")
    parser.add_argument("--num", type=int, help="pictures in all; the labels are repeated in turn")
    parser.add_argument("--steps", type=int, default=50, help="sampling steps, 1..1000")
    parser.add_argument("--sampler", default="ddim", help="ddim, ddpm or dpm-solver++")
    parser.add_argument(
        "--spacing",
        default="linspace",
        help="timesteps of so many steps: linspace (original DiT sampler), leading (default of "
        "diffusers' DDIM) or trailing",
    )
    parser.add_argument(
        "--cfg-scale",
        type=float,
        help="guidance weight (4 if not given; 1 with an engine built with --no-cfg)",
    )
    parser.add_argument("--seed", type=int, default=0, help="0..2**64 - 1")
    parser.add_argument(
        "--first-sample",
        type=int,
        default=0,
        help="sample index of the first picture: 17 draws picture 17 of a request by itself",
    )
    parser.add_argument("--eta", type=float, default=0.0, help="fresh noise of ddim, 0..1")
    parser.add_argument(
        "--accuracy", choices=("fast", "exact", "int8"), default="fast", help="kernels"
    )
    parser.add_argument("--threads", type=int, help="threads of one step")
    parser.add_argument("--batch-size", type=int, help="pictures of one step")
    parser.add_argument(
        "--low-memory", action="store_true", help="free the step model before decoding"
    )
    parser.add_argument("--columns", type=int, help="columns of the grid")
    parser.add_argument(
        "--separate", action="store_true", help="one file per picture: NAME-0000.png, ..."
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Draw and write the pictures; returns the files, the time taken and the parameters."""
    from vq4dit.runtime.images import check_writable, save_grid, save_images
    from vq4dit.runtime.pipeline import Pipeline

    options = _options(args)
    if args.columns is not None and args.columns < 1:
        raise OptionError(f"--columns is {args.columns}, needed at least 1")
    if args.output.suffix.lower() != ".png":
        raise OptionError(f"{args.output}: needed a name that ends in .png")
    check_writable(args.output)
    with Pipeline(
        args.engine, accuracy=args.accuracy, threads=args.threads, low_memory=args.low_memory
    ) as pipeline:
        parameters = pipeline.describe(**options)
        start = time.perf_counter()
        images = _draw(args, pipeline, options)
        seconds = time.perf_counter() - start
        texts = _texts_of_each(pipeline, options, len(images)) if args.separate else []
    if args.separate:
        paths = save_images(args.output, images, texts)
    else:
        paths = [args.output]
        save_grid(args.output, images, parameters, columns=args.columns)
    if not args.json and not args.quiet:
        where = args.output if len(paths) == 1 else f"{paths[0]} .. {paths[-1].name}"
        print(f"{where}: {len(images)} pictures in {seconds:.1f} s")
    return {
        "files": [str(path) for path in paths],
        "num_images": len(images),
        "seconds": seconds,
        "parameters": parameters,
    }


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that say which pictures to draw, as `Pipeline` takes them."""
    return {
        "labels": _labels(args.labels),
        "steps": args.steps,
        "cfg_scale": args.cfg_scale,
        "sampler": args.sampler,
        "seed": args.seed,
        "spacing": args.spacing,
        "eta": args.eta,
        "num_images": args.num,
        "samples": args.first_sample,
    }


def _draw(args: argparse.Namespace, pipeline: Pipeline, options: dict[str, Any]) -> Any:
    """Run the pipeline with a progress bar on stderr."""
    from vq4dit.stage_bar import StageBar

    with StageBar(quiet=args.quiet) as bar:
        return pipeline(
            **options,
            batch_size=args.batch_size,
            callback=lambda report: bar("sampling", report.done, report.total),
        )


def _texts_of_each(
    pipeline: Pipeline, options: dict[str, Any], num_images: int
) -> list[dict[str, str]]:
    """For each picture what draws it alone."""
    labels, first = options["labels"], options["samples"]
    each = [
        {"labels": labels[i % len(labels)], "samples": first + i, "num_images": None}
        for i in range(num_images)
    ]
    return [pipeline.describe(**{**options, **own}) for own in each]


def _labels(text: str) -> list[int | str]:
    """Comma-separated numbers and names; a name may hold anything but commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise OptionError(f"--labels is {text!r}, needed numbers or names separated by commas")
    return [int(part) if part.lstrip("-").isdecimal() else part for part in parts]
