"""Options of `vq4dit calibrate` for where it computes: device, threads, processes, machines."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..errors import OptionError


def add_compute_arguments(parser: argparse.ArgumentParser) -> None:
    """The options; `compute_options` hands them on."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda or cuda:N; auto: CUDA if torch sees it"
    )
    parser.add_argument(
        "--autocast",
        choices=("bf16",),
        default=None,
        help="run the model in bfloat16; K-Means, losses and optimizers stay in float32",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=None,
        help="torch threads of each process; all processors, shared among --workers, by default",
    )
    parser.add_argument(
        "--ray",
        default=None,
        metavar="ADDRESS",
        help="share work out by Ray: local (processes on this machine), auto or HOST:PORT of a "
        "cluster; the result is the same",
    )
    parser.add_argument(
        "--workers", type=int, default=None, metavar="N", help="processes of --ray local"
    )
    parser.add_argument(
        "--independent-blocks",
        action="store_true",
        help="let blocks learn on the full-precision model's activations, not on those of the "
        "quantized blocks before them, so that --ray can do whole blocks at once",
    )


def set_threads(args: argparse.Namespace) -> None:
    """Give torch the threads that were asked for, or each worker its share of the processors.

    Raises:
        OptionError: not a positive number.
    """
    import torch

    for option in ("threads", "workers"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise OptionError(f"--{option} is {value}, needed at least 1")
    threads = args.threads
    if threads is None and args.workers is not None:
        threads = max(1, (os.cpu_count() or 1) // args.workers)
    if threads is not None:
        torch.set_num_threads(threads)


def compute_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options as `calibrate.run.calibrate` takes them."""
    names = ("device", "autocast", "ray", "workers", "independent_blocks")
    return {name: getattr(args, name) for name in names}
