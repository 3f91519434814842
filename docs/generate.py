"""Write docs/api.md from docstrings and docs/cli.md from the command line's parsers.

    python docs/generate.py

A test compares both files with what this writes. Nothing here depends on the Python version: help
is taken from the parsers' arguments, not from argparse's own layout.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from vq4dit import cli

DOCS = Path(__file__).resolve().parent

#: Section -> module -> names that belong to the API.
API = {
    "Drawing pictures": {
        "vq4dit.runtime.pipeline": ["Pipeline"],
        "vq4dit.runtime.step_report": ["StepReport"],
        "vq4dit.runtime.images": [
            "pil_from_images",
            "save_grid",
            "save_images",
            "save_png",
            "grid_from_images",
        ],
    },
    "Engines": {
        "vq4dit.engines.build": ["build_engine"],
        "vq4dit.engines.manifest": ["load_manifest", "Manifest", "verify_files"],
        "vq4dit.runtime.selftest": ["load_selftest", "SelfTestResult"],
    },
    "Making and reading weights": {
        "vq4dit.calibrate.source": ["open_weights"],
        "vq4dit.calibrate.run": ["calibrate"],
        "vq4dit.weight_source": ["WeightSource"],
        "vq4dit.export.step": ["build_step_model"],
        "vq4dit.export.decoder": ["build_decoder_model"],
    },
    "Samplers and noise": {
        "vq4dit.runtime.schedule": ["spaced_timesteps", "spaced_schedule", "SpacedSchedule"],
        "vq4dit.runtime.samplers": ["coefficient_table"],
        "vq4dit.runtime.noise": ["gaussian_noise"],
    },
    "Sessions": {
        "vq4dit.runtime.session": ["StepInputs", "StepSession", "DecoderSession"],
        "vq4dit.runtime.engine_sessions": ["EngineSessions"],
    },
    "Errors": {
        "vq4dit.errors": [
            "Vq4ditError",
            "OptionError",
            "ArtifactError",
            "ShapeError",
            "BackendUnavailable",
            "Cancelled",
        ],
    },
}

_GENERATED = "<!-- Written by docs/generate.py; change the {source} instead. -->\n"

#: Headings of a docstring, whose lines are indented below them.
_HEADINGS = ("Args", "Returns", "Raises")
_ENTRY = re.compile(r"([\w*`., ]+?): (.*)")


def api_page() -> str:
    """docs/api.md: every name of `API` with signature and docstring."""
    lines = ["# Python API", "", _GENERATED.format(source="docstring")]
    lines += [
        "`from vq4dit import Pipeline` is all that most programs need; `vq4dit` also has "
        "`StepReport`,",
        "the functions that write pictures, and the errors. Importing it loads neither NumPy nor "
        "ONNX",
        "Runtime. `build_engine` and what stands under *Making and reading weights* need the extra",
        "`calibrate`, all else the base install.",
        "",
    ]
    for section, modules in API.items():
        lines += [f"## {section}", ""]
        for module_name, names in modules.items():
            module = import_module(module_name)
            for name in names:
                lines += _name_lines(f"{module_name}.{name}", getattr(module, name))
    return _page(lines)


def cli_page() -> str:
    """docs/cli.md: every command with its text and its options."""
    lines = ["# Command line", "", _GENERATED.format(source="command's module")]
    lines += [
        "`vq4dit COMMAND`, or `python -m vq4dit COMMAND`. Exit code 0 is success, 1 failure, 2 "
        "wrong usage.",
        "Every command also takes",
        "",
        "| option | does |",
        "|---|---|",
    ]
    common = cli._parser(["doctor"])
    lines += _option_rows(_subparser(common, "doctor"), only_common=True)
    lines += ["", "| command | does |", "|---|---|"]
    lines += [f"| [`{name}`](#vq4dit-{name}) | {text} |" for name, text in cli.COMMANDS.items()]
    for name in cli.COMMANDS:
        parser = _subparser(cli._parser([name]), name)
        lines += [
            "",
            f"## vq4dit {name}",
            "",
            f"`vq4dit {name} {_usage(parser)}`".replace(" `", "`"),
        ]
        lines += ["", (parser.description or "").strip(), ""]
        rows = list(_option_rows(parser))
        if rows:
            lines += ["| argument | does |", "|---|---|", *rows]
    return _page(lines)


def _page(lines: list[str]) -> str:
    """The lines without empty ones next to each other."""
    text = "\n".join(line.rstrip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _name_lines(path: str, value: Any) -> Iterator[str]:
    """Heading, signature, docstring and, for a class, its public methods."""
    yield from (f"### {path}", "")
    if inspect.isclass(value):
        if not issubclass(value, Exception) and not getattr(value, "_is_protocol", False):
            yield from _code(value.__name__, value.__init__, skip_self=True)
        yield from _markdown(inspect.getdoc(value) or "")
        for name, method in vars(value).items():
            function = method.fget if isinstance(method, property) else method
            if name.startswith("_") and name != "__call__" or not inspect.isfunction(function):
                continue
            yield from (f"#### {value.__name__}.{name}", "")
            if not isinstance(method, property):
                shown = f"{value.__name__.lower()}" if name == "__call__" else f".{name}"
                yield from _code(shown, function, skip_self=True)
            yield from _markdown(inspect.getdoc(function) or "")
    else:
        yield from _code(value.__name__, value, skip_self=False)
        yield from _markdown(inspect.getdoc(value) or "")


def _code(name: str, function: Any, *, skip_self: bool) -> Iterator[str]:
    """The signature as a code block, one argument a line where it is long."""
    signature = inspect.signature(function)
    parts, starred = [], False
    for parameter in list(signature.parameters.values())[1 if skip_self else 0 :]:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        text = parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {_default(parameter.default)}"
        parts.append(text)
    returns = signature.return_annotation
    arrow = "" if returns in (signature.empty, "None", None) else f" -> {_annotation(returns)}"
    line = f"{name}({', '.join(parts)}){arrow}"
    if len(line) > 90:
        inner = "".join(f"    {part},\n" for part in parts)
        line = f"{name}(\n{inner}){arrow}"
    yield from ("```python", line, "```", "")


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _default(value: Any) -> str:
    """A default as source; dataclass factories have none that reads well."""
    return "..." if repr(value).startswith("<") else repr(value)


def _markdown(docstring: str) -> Iterator[str]:
    """Text as it is; Args, Returns and Raises as lists, a sentence for Source."""
    lines = docstring.splitlines()
    heading = ""
    for number, line in enumerate(lines):
        name, _, rest = line.partition(":")
        if not line.startswith(" ") and name in _HEADINGS:
            heading = name
            yield from ("", f"**{name}**", "")
            if rest.strip():
                # "Raises: ShapeError: ..." on one line
                yield f"- {rest.strip()}"
        elif heading and line.startswith("    "):
            yield _entry(line, heading)
        else:
            if heading and line and number:
                yield ""
            heading = heading if not line else ""
            yield line
    yield ""


def _entry(line: str, heading: str) -> str:
    """One line below a heading: an entry begins at four spaces, what is deeper goes on."""
    if line.startswith("     "):
        return line[2:]
    found = _ENTRY.match(line.strip())
    if heading != "Returns" and found:
        return f"- `{found[1]}`: {found[2]}"
    return line.strip()


def _subparser(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices[name]
    raise LookupError(name)


def _usage(parser: argparse.ArgumentParser) -> str:
    """Required arguments, then [options]."""
    words = []
    for action in parser._actions:
        if not action.option_strings:
            words.append(_placeholder(action))
        elif action.required:
            words.append(f"{action.option_strings[-1]} {_placeholder(action)}")
    return " ".join(words)


def _placeholder(action: argparse.Action) -> str:
    name = (action.metavar if isinstance(action.metavar, str) else None) or action.dest.upper()
    name = name.replace("|", "/")  # would end a cell of the table
    return f"{name} ..." if action.nargs in ("+", "*") else name


_COMMON = ("--json", "--quiet", "--debug")


def _option_rows(parser: argparse.ArgumentParser, *, only_common: bool = False) -> Iterator[str]:
    """Rows of a table, in the order of declaration, without --help."""
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        is_common = bool(set(action.option_strings) & set(_COMMON))
        if is_common != only_common:
            continue
        name = ", ".join(action.option_strings) or _placeholder(action)
        if action.option_strings and action.nargs != 0:
            name += f" {_placeholder(action)}"
        text = (action.help or "").replace("%(default)s", str(action.default)).replace("|", "\\|")
        notes = []
        if action.choices is not None:
            notes.append("one of " + ", ".join(map(str, action.choices)))
        if action.option_strings and action.nargs != 0 and action.default not in (None, "", []):
            notes.append(f"default {action.default}")
        yield f"| `{name}` | {'; '.join(part for part in [text, *notes] if part)} |"


PAGES = {"api.md": api_page, "cli.md": cli_page}


def main() -> None:
    """Write both pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
