"""Options of `vq4dit build` for the targets that build TensorRT plans."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from vq4dit.errors import OptionError

if TYPE_CHECKING:
    from vq4dit.engines.plan_options import PlanOptions

_NAMES = ("batch", "compute_capability", "version_compatible", "plugin_library", "no_cache")


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("targets tensorrt and tensorrt-rtx")
    group.add_argument(
        "--batch",
        default=None,
        metavar="N or MIN:OPT:MAX",
        help="samples of one step that the plan takes; 1 if not given",
    )
    group.add_argument(
        "--compute-capability",
        default=None,
        metavar="8.6,8.9",
        help="GPUs that a tensorrt-rtx plan is for",
    )
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="let later versions of TensorRT run the plan",
    )
    group.add_argument(
        "--plugin-library",
        type=Path,
        help="our C++ plugin library, for versions of TensorRT before 10.9",
    )
    group.add_argument(
        "--linears",
        choices=("auto", "gather", "decode"),
        default=None,
        help="how quantized linears run in target tensorrt: gathered by our kernels, or decoded to "
        "memory for TensorRT's own product; auto, the default, takes for each what is predicted to "
        "be faster on this GPU at the usual batch",
    )
    group.add_argument(
        "--no-cache", action="store_true", help="build anew what was built from the same bytes"
    )


def plan_options(args: argparse.Namespace) -> PlanOptions | None:
    """The options given, None for a target that builds no plans.

    Raises:
        OptionError: an option does not parse, or is not for this target.
    """
    from vq4dit.engines.manifest import PLAN_TARGETS
    from vq4dit.engines.plan_options import PlanOptions

    if args.linears is not None and args.target != "tensorrt":
        raise OptionError(
            f"--linears is for target tensorrt, not for {args.target}, where quantized linears run "
            "in one way only; leave it out"
        )
    if args.target not in PLAN_TARGETS:
        given = [name for name in _NAMES if getattr(args, name)]
        if given:
            raise OptionError(
                f"--{given[0].replace('_', '-')} is for targets {' and '.join(PLAN_TARGETS)}, "
                f"not for {args.target}; leave it out"
            )
        return None
    return PlanOptions(
        batch=_batch(args.batch or "1"),
        compute_capabilities=_capabilities(args.compute_capability or ""),
        version_compatible=args.version_compatible,
        plugin_library=args.plugin_library,
        linears=args.linears or "auto",
        use_cache=not args.no_cache,
    )


def _batch(text: str) -> tuple[int, int, int]:
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(part.isdecimal() for part in parts):
        raise OptionError(f"--batch is {text!r}, needed a number, or MIN:OPT:MAX such as 1:4:8")
    numbers = [int(part) for part in parts]
    low, opt, high = numbers if len(numbers) == 3 else numbers * 3
    return (low, opt, high)


def _capabilities(text: str) -> tuple[str, ...]:
    parts = tuple(filter(None, text.split(",")))
    if not all(re.fullmatch(r"\d{1,2}\.\d", part) for part in parts):
        raise OptionError(f"--compute-capability is {text!r}, needed numbers such as 8.6,8.9")
    return parts
