"""Tell what this machine can run, and what to install for the rest."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`vq4dit doctor` has no options of its own."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Look at the machine; `ok` is whether at least one target works here."""
    from vq4dit import __version__
    from vq4dit.engines.targets import TARGETS
    from vq4dit.runtime.doctor import inspect_machine

    machine = inspect_machine()
    targets = {name: target.why_not_here() for name, target in TARGETS.items()}
    result = {
        "ok": any(reason is None for reason in targets.values()),
        "vq4dit": __version__,
        **machine,
        "targets": {
            name: {"works": reason is None, "why_not": reason, "runs_on": TARGETS[name].runs_on}
            for name, reason in targets.items()
        },
    }
    if not args.json:
        print(_table(result))
    return result


def _table(result: dict[str, Any]) -> str:
    """Two columns: what, and what was found or what to do."""
    from vq4dit.runtime.doctor import OPTIONAL_MODULES

    cpu, onnxruntime, library = result["cpu"], result["onnxruntime"], result["native_library"]
    rows = [
        ("vq4dit", f"{result['vq4dit']}, Python {result['python']}, {result['system']}"),
        ("CPU", f"{cpu['name']}, {cpu['cores']} cores"),
        ("instruction sets", " ".join(cpu["instruction_sets"]) or "none that the kernels know"),
        (
            "native kernels",
            f"{library['name']}: {', '.join(library['kernels'])}"
            if library
            else "NOT installed: portable function bodies run instead, much slower; install vq4dit "
            "again with a C++ compiler and CMake",
        ),
        (
            "onnxruntime",
            f"{onnxruntime['version']}: {', '.join(onnxruntime['providers'])}"
            if onnxruntime
            else "NOT installed: no engine can run; pip install onnxruntime",
        ),
    ]
    for name, found in result["modules"].items():
        use, extra = OPTIONAL_MODULES[name]
        missing = f"not installed; for {use}: pip install 'vq4dit[{extra}]'"
        rows.append((name, found or missing))
    for name, target in result["targets"].items():
        text = f"works: {target['runs_on']}" if target["works"] else f"no: {target['why_not']}"
        rows.append((f"target {name}", text))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)
