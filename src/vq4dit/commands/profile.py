"""Measure engines: latency, throughput, layers, memory, energy; several side by side.

Latency is measured with nothing else switched on. Times of layers come from runs of their own,
memory from processes of their own. --predict asks a cost model instead of the machine: its figures
are labelled so.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vq4dit.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vq4dit profile`."""
    parser.add_argument("engines", type=Path, nargs="*", metavar="ENGINE", help="engine directory")
    parser.add_argument("--batch", type=int, default=1, help="samples of one step")
    parser.add_argument(
        "--batches", default="1,2,4,8", help="batch sizes of the throughput table; empty for none"
    )
    parser.add_argument("--steps", type=int, default=50, help="sampling steps of a picture")
    parser.add_argument("--sampler", default="ddim", help="ddim, ddpm or dpm-solver++")
    parser.add_argument("--warmup", type=int, default=3, help="runs that do not count")
    parser.add_argument("--repeats", type=int, default=100, help="runs of a step")
    parser.add_argument("--image-repeats", type=int, default=5, help="runs of a whole picture")
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="limit of each single measurement"
    )
    parser.add_argument("--threads", type=int, help="threads of one step")
    parser.add_argument(
        "--accuracy", choices=("fast", "exact", "int8"), default="fast", help="kernels"
    )
    parser.add_argument("--no-layers", action="store_true", help="no times of layers")
    parser.add_argument("--no-memory", action="store_true", help="no memory by phase")
    parser.add_argument("--no-energy", action="store_true", help="no energy")
    parser.add_argument(
        "--predict",
        metavar="GPU",
        help="measure nothing: predict for GPUs that are not here, such as a100-40,orin-agx",
    )
    parser.add_argument(
        "--shapes", metavar="MODEL", help="predict for a model of this name, such as DiT-XL/2"
    )
    parser.add_argument(
        "--weights", default="fp16,2bit", help="what --predict compares: fp16, 1bit .. 4bit"
    )
    parser.add_argument("--trace", type=Path, help="write a timeline for Chrome or Perfetto (JSON)")
    parser.add_argument("--report", type=Path, help="write a report (one HTML file)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure or predict, write what was asked for, and give all figures."""
    from vq4dit.runtime.images import check_writable

    for path in (args.trace, args.report):
        if path is not None:
            check_writable(path)
    document = _measured(args) if args.predict is None else _predicted(args)
    if args.report is not None:
        from vq4dit.runtime.profiling.report import write_report

        write_report(args.report, document)
    return document


def _measured(args: argparse.Namespace) -> dict[str, Any]:
    """Profile the engines on this machine."""
    from vq4dit.runtime.profiling.measure import profile_engines
    from vq4dit.runtime.profiling.table import profile_text
    from vq4dit.runtime.profiling.trace import write_trace
    from vq4dit.stage_bar import StageBar

    if args.shapes is not None:
        raise OptionError("--shapes needs --predict GPU; to measure, name an engine directory")
    with StageBar(quiet=args.quiet) as bar:
        profile = profile_engines(
            args.engines,
            _options(args),
            progress=lambda what, done, total: bar("profiling", done, total),
        )
    if args.trace is not None:
        write_trace(args.trace, profile.traces)
    if not args.json and not args.quiet:
        print(profile_text(profile.document))
    return profile.document


def _predicted(args: argparse.Namespace) -> dict[str, Any]:
    """Ask the cost model for every engine or model and every GPU named."""
    from vq4dit.prediction import predict, profile_table
    from vq4dit.runtime.profiling.measure import FORMAT

    if args.trace is not None:
        raise OptionError("--trace shows what was measured; leave it out with --predict")
    sources = [*args.engines, *([] if args.shapes is None else [args.shapes])]
    if not sources:
        raise OptionError("--predict needs an engine directory or --shapes MODEL")
    weights = _words(args.weights)
    found = [
        predict(source, gpu, args.batch, weights=weights)
        for source in sources
        for gpu in _words(args.predict)
    ]
    if not args.json and not args.quiet:
        print("\n\n".join("\n".join(profile_table(profile)) for profile in found))
    return {
        "format": FORMAT,
        "engines": [],
        "comparison": [],
        "predictions": [profile.to_dict() for profile in found],
    }


def _options(args: argparse.Namespace) -> Any:
    from vq4dit.runtime.profiling.options import ProfileOptions

    return ProfileOptions(
        batch=args.batch,
        batches=_batches(args.batches),
        steps=args.steps,
        sampler=args.sampler,
        warmup=args.warmup,
        repeats=args.repeats,
        image_repeats=args.image_repeats,
        seconds=args.seconds,
        threads=args.threads,
        accuracy=args.accuracy,
        layers=not args.no_layers,
        memory=not args.no_memory,
        energy=not args.no_energy,
    )


def _batches(text: str) -> tuple[int, ...]:
    parts = _words(text)
    if not all(part.isdecimal() for part in parts):
        raise OptionError(f"--batches is {text!r}, needed numbers separated by commas")
    return tuple(int(part) for part in parts)


def _words(text: str) -> list[str]:
    """Words separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
