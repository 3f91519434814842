"""Options of `vq4dit calibrate` that say how precise each linear shall be, and their forms."""

from __future__ import annotations

import argparse
import re

from ..errors import OptionError

#: Bytes of one unit of size; MB is a million bytes, as a file manager counts.
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20}
_UNITS["GIB"] = 1 << 30
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*")


def add_precision_arguments(parser: argparse.ArgumentParser) -> None:
    """The options --bits, --target-bits, --target-size (one of them) and --keep."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--bits", type=int, choices=(1, 2, 3, 4), default=2, help="per weight, the same everywhere"
    )
    group.add_argument(
        "--target-bits",
        type=float,
        default=None,
        metavar="BITS",
        help="mean bits per weight, codebooks included, such as 2.5: each linear gets 1 to 4 bits "
        "by its measured sensitivity",
    )
    group.add_argument(
        "--target-size",
        default=None,
        metavar="SIZE",
        help="the same by the size of the whole output file, such as 3.2MB",
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="LAYERS=PRECISION",
        help="exception for linears by name, * stands for anything: 'blocks.0.*=fp16' leaves them "
        "dense, '*.attn.proj=4' gives them 4 bits; can be repeated, the last match counts",
    )


def keep_from_texts(texts: list[str]) -> tuple[tuple[str, str], ...]:
    """(pattern, precision) of each --keep; OptionError where there is no "="."""
    pairs = []
    for text in texts:
        pattern, separator, value = text.rpartition("=")
        if not separator or not pattern:
            raise OptionError(
                f"keep is {text!r}, needed LAYERS=PRECISION such as 'blocks.0.*=fp16'"
            )
        pairs.append((pattern, value))
    return tuple(pairs)


def bytes_from_text(text: str) -> int:
    """Bytes of a size such as "3.2MB", "3 MiB" or "3200000".

    Raises:
        OptionError: not a positive number with a unit that is known.
    """
    match = _SIZE.fullmatch(text)
    unit = None if match is None else _UNITS.get(match[2].upper())
    if match is None or unit is None or float(match[1]) <= 0:
        raise OptionError(
            f"target size is {text!r}, needed a positive number and a unit (B, kB, MB, GB, KiB, "
            "MiB, GiB), such as 3.2MB"
        )
    return int(float(match[1]) * unit)
