"""The option --cfg-channels, which several commands have."""

from __future__ import annotations

import argparse


def add_cfg_channels_argument(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Declare the option; its value is a number of channels, or None for all."""
    parser.add_argument(
        "--cfg-channels",
        type=_channels,
        default=default,
        metavar="N|all",
        help="leading latent channels that guidance acts on, or all (3 as in the public sampler)",
    )


def _channels(text: str) -> int | None:
    """Parse the option's value; argparse turns the error into a usage message and exit code 2."""
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, needed a number from 1, or all")
    return int(text)
