"""The command line: one module of `vq4dit.commands` per command, imported when it is called.

Exit codes: 0 success, 1 failure, 2 wrong usage. With `--json` one JSON object goes to stdout and
all else to stderr. Errors are one line unless `--debug` asks for the trace.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from . import __version__
from .errors import OptionError, Vq4ditError

#: Command -> one line of help. Each has a module `vq4dit.commands.<name>` with
#: `add_arguments(parser)` and `run(args) -> dict` (what `--json` prints).
COMMANDS = {
    "doctor": "tell what this machine can run",
    "inspect": "tell what a checkpoint, artifact or engine holds, layer by layer",
    "calibrate": "quantize a DiT checkpoint to 2 bits (or 1, 3, 4)",
    "export": "write the ONNX step model of an artifact",
    "build": "build an engine directory for one target",
    "verify": "check an engine directory: hashes, self-test, parity",
    "sample": "draw pictures with an engine",
    "evaluate": "compare a quantized engine with the full-precision one",
    "profile": "measure engines: latency, layers, memory, energy; several side by side",
    "demo": "the whole way on the bundled model: calibrate, build, sample, evaluate",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(arguments)
    args = parser.parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        format="%(message)s",
        level=logging.WARNING if args.quiet else logging.INFO,
    )
    try:
        result = import_module(f"vq4dit.commands.{args.command}").run(args)
    except BrokenPipeError:
        return _reader_left()
    except (Vq4ditError, OSError) as error:
        if args.debug:
            raise
        print(f"vq4dit {args.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, OptionError) else 1
    except KeyboardInterrupt:
        print(f"vq4dit {args.command}: interrupted", file=sys.stderr)
        return 1
    try:
        return _finish(result, as_json=args.json)
    except BrokenPipeError:
        return _reader_left()


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the chosen command's module is imported, so that `--help` stays quick."""
    parser = argparse.ArgumentParser(prog="vq4dit", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"vq4dit {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((a for a in arguments if not a.startswith("-")), None)
    for name, help_text in COMMANDS.items():
        sub = subparsers.add_parser(
            name, help=help_text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        sub.add_argument("--quiet", action="store_true", help="print warnings and errors only")
        sub.add_argument("--debug", action="store_true", help="show the trace of an error")
        if name == chosen:
            module = import_module(f"vq4dit.commands.{name}")
            sub.description = module.__doc__
            module.add_arguments(sub)
    return parser


def _finish(result: dict[str, Any], *, as_json: bool) -> int:
    """Print the result if asked; a command says failure by `"ok": False`."""
    if as_json:
        print(json.dumps(result, indent=1, sort_keys=False, allow_nan=False), flush=True)
    return 0 if result.get("ok", True) else 1


def _reader_left() -> int:
    """Whoever read our output stopped (`| head`): say nothing more, also not when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
