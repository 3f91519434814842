"""Tell what this machine can build and run, and for each missing thing the command that adds it."""

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
    targets = {
        name: {
            "works": target.why_not_run_here() is None,
            "why_not": target.why_not_run_here(),
            "builds": target.why_not_built_here() is None,
            "why_not_built": target.why_not_built_here(),
            "runs_on": target.runs_on,
        }
        for name, target in TARGETS.items()
    }
    result = {
        "ok": any(target["works"] for target in targets.values()),
        "vq4dit": __version__,
        **machine,
        "targets": targets,
    }
    if not args.json:
        print(_table(result))
    return result


def _table(result: dict[str, Any]) -> str:
    """Two columns: what, and what was found or what to do."""
    rows = [
        ("vq4dit", f"{result['vq4dit']}, Python {result['python']}, {result['system']}"),
        *_cpu_rows(result),
        *_gpu_rows(result),
        *_module_rows(result),
        *_plugin_rows(result),
        *((f"target {name}", _target_text(t)) for name, t in result["targets"].items()),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _cpu_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    cpu, onnxruntime, library = result["cpu"], result["onnxruntime"], result["native_library"]
    missing = result["missing"]
    kernels = (
        f"{library['name']}: {', '.join(library['kernels'])}"
        if library
        else "NOT installed: portable function bodies run instead, much slower; "
        f"{missing['native_library']}"
    )
    providers = (
        f"{onnxruntime['version']}: {', '.join(onnxruntime['providers'])}"
        if onnxruntime
        else f"NOT installed: targets cpu and onnx cannot run; {missing['onnxruntime']}"
    )
    return [
        ("CPU", f"{cpu['name']}, {cpu['cores']} cores"),
        ("instruction sets", " ".join(cpu["instruction_sets"]) or "none that the kernels know"),
        ("native kernels", kernels),
        ("onnxruntime", providers),
    ]


def _gpu_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    driver, jetson, missing = result["driver"], result["jetson"], result["missing"]
    rows = []
    if driver is None:
        rows.append(("NVIDIA driver", f"none ({result['why_no_gpu']}); {missing['driver']}"))
    else:
        version = driver["version"] or "version not told"
        rows.append(("NVIDIA driver", f"{version}, CUDA {driver['cuda_version']}"))
        rows += [(f"GPU {i}", _gpu_text(gpu)) for i, gpu in enumerate(result["gpus"])]
        if not result["gpus"]:
            rows.append(("GPU", f"none; {missing['gpu']}"))
    if jetson is not None:
        release = f", Linux for Tegra {jetson['release']}" if jetson["release"] else ""
        mode = f", power mode {jetson['power_mode']}" if jetson["power_mode"] else ""
        rows.append(("Jetson", f"{jetson['model']}{release}{mode}"))
    nvrtc = result["nvrtc"]
    rows.append(("CUDA compiler (NVRTC)", nvrtc or f"not installed; {missing['nvrtc']}"))
    return rows


def _gpu_text(gpu: dict[str, Any]) -> str:
    shared = ", shared with the CPU" if gpu["is_integrated"] else ""
    return f"{gpu['name']}, {gpu['sm']}, {gpu['memory_bytes'] / 2**30:.1f} GiB{shared}"


def _module_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    from vq4dit.runtime.doctor import OPTIONAL_MODULES

    rows, missing = [], result["missing"]
    for name, found in result["modules"].items():
        if found is None:
            text = f"not installed; for {OPTIONAL_MODULES[name][0]}: {missing[name]}"
        elif name in missing:
            text = f"{found}, which does not fit this driver; {missing[name]}"
        else:
            text = found
        rows.append((name, text))
    return rows


def _plugin_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """How quantized linears would run in TensorRT, if it is there."""
    from vq4dit.runtime.doctor import needs_plugin_library

    version, library = result["modules"]["tensorrt"], result["plugin_library"]
    if version is None:
        return []
    if not needs_plugin_library(version):
        text = f"kernels go into the plan{f'; library {library}' if library else ''}"
    elif library:
        text = f"library {library}; give it to build as --plugin-library"
    else:
        text = f"NONE: TensorRT {version} needs our library; {result['missing']['plugin_library']}"
    return [("TensorRT plugins", text)]


def _target_text(target: dict[str, Any]) -> str:
    """Whether it can be built and run here, and if not why."""
    if target["works"] and target["builds"]:
        return f"works: {target['runs_on']}"
    if target["works"]:
        return f"runs, but does not build: {target['why_not_built']}"
    if target["builds"]:
        return f"builds, but does not run: {target['why_not']}"
    return f"no: {target['why_not_built']}"
