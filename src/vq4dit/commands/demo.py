"""The whole way on the bundled model: calibrate, build, sample, evaluate against full precision.

Quantizes a small latent DiT of Fashion-MNIST to 2 bits twice, by K-Means alone and calibrated,
builds an engine of each and of the full-precision model, draws the same pictures with all three and
compares them. Ends with a table and the paths of comparison.png and metrics.json.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BackendUnavailable
from .calibration_summary import write_report_files
from .cfg_channels import add_cfg_channels_argument
from .evaluate import add_sampling_arguments, metrics_table, run_evaluation, write_report

if TYPE_CHECKING:
    from ..engines.manifest import Manifest
    from ..evaluation import Evaluation

logger = logging.getLogger(__name__)

#: The quantized variants, in the order of the report; the full-precision model comes before them.
VARIANTS = ("kmeans", "calibrated")

#: Pictures of samples.png.
_NUM_SHOWN = 100

#: What calibrating and building need beyond an engine's own needs.
_MODULES = ("torch", "onnx")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vq4dit demo`."""
    parser.add_argument("-o", "--output", type=Path, default=Path("out/demo"), help="folder")
    parser.add_argument("--bits", type=int, choices=(1, 2, 3, 4), default=2, help="per weight")
    parser.add_argument("--recipe", default="vq4dit", help="of the calibrated variant")
    parser.add_argument("--target", choices=("cpu", "onnx"), default="cpu", help="of the engines")
    add_cfg_channels_argument(parser, default="all")
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Go the whole way; metrics.json holds what is returned."""
    from .. import demo
    from ..calibrate.source import open_weights
    from ..json_file import write_json

    channels = args.cfg_channels
    _require_modules()
    args.output.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    reports: dict[str, str] = {}
    weights = {"fp": demo.checkpoint_path()}
    with _timed(seconds, "total"):
        for name in VARIANTS:
            weights[name] = args.output / f"{name}.vq.safetensors"
            recipe = "kmeans" if name == "kmeans" else args.recipe
            with _timed(seconds, f"calibrate_{name}"):
                reports |= _calibrate(demo.checkpoint_path(), weights[name], recipe, args)
        engines = {name: args.output / "engines" / name for name in weights}
        engines["fp"].parent.mkdir(exist_ok=True)
        manifests = {}
        with _timed(seconds, "build"):
            for name, path in weights.items():
                manifests[name] = _build(open_weights(path), engines[name], args.target, channels)
        with _timed(seconds, "evaluate"):
            quantized = {name: engines[name] for name in VARIANTS}
            evaluation = run_evaluation(args, engines["fp"], quantized)
    files = {**write_report(evaluation, args.output), **_write_samples(evaluation, args.output)}
    files |= reports
    report = evaluation.to_dict()
    report["seconds"] = {**report["seconds"], **seconds}
    report["sizes"] = {name: _sizes(path, manifests[name]) for name, path in weights.items()}
    write_json(args.output / "metrics.json", report)
    if not args.json:
        print("\n".join(metrics_table(evaluation)))
        print("\n".join(_closing_lines(report, files)))
    return {**report, "files": files}


def _calibrate(
    checkpoint: Path, output: Path, recipe: str, args: argparse.Namespace
) -> dict[str, str]:
    """Quantize the checkpoint, with a progress bar for each stage; returns its report's files."""
    from ..calibrate.run import calibrate
    from ..stage_bar import StageBar

    logger.info("quantizing to %d bits, recipe %s", args.bits, recipe)
    with StageBar(quiet=args.quiet) as progress:
        summary = calibrate(
            checkpoint, output, bits=args.bits, recipe=recipe, seed=args.seed, progress=progress
        )
    if recipe == "kmeans":
        return {}
    if find_spec("matplotlib") is None:
        logger.warning("calibration.png is left out: matplotlib is not installed")
        return {}
    return write_report_files(args.output / "calibration.png", summary)


def _build(source: Any, directory: Path, target: str, cfg_channels: int | None) -> Manifest:
    """Build one engine with the demonstration model's decoder."""
    from .. import demo
    from ..engines.build import build_engine

    logger.info("building %s", directory)
    return build_engine(
        source, directory, target=target, vae=demo.vae_path(), cfg_channels=cfg_channels
    )


def _write_samples(evaluation: Evaluation, folder: Path) -> dict[str, str]:
    """Write samples.png, the first pictures of the calibrated engine, ten classes to a row."""
    from ..runtime.images import grid_from_images, save_png

    pictures = evaluation.samples["calibrated"].pictures
    if pictures is None:
        return {}
    save_png(folder / "samples.png", grid_from_images(pictures[:_NUM_SHOWN], columns=10), {})
    return {"samples": str(folder / "samples.png")}


def _sizes(weights: Path, manifest: Manifest) -> dict[str, float]:
    """Bytes of the file of weights and of the engine's step model, mean bits of a weight."""
    shapes = manifest.model.block_linear_shapes()
    counts = {name: rows * columns for name, (rows, columns) in shapes.items()}
    bits = sum(manifest.bits_per_weight[name] * count for name, count in counts.items())
    step = [manifest.files[r].bytes for r in ("step", "step_data") if r in manifest.files]
    return {
        "file_bytes": weights.stat().st_size,
        "step_bytes": sum(step),
        "bits_per_weight": bits / sum(counts.values()),
    }


def _closing_lines(report: dict[str, Any], files: dict[str, str]) -> list[str]:
    """Sizes, seconds of each phase, and where the files are."""
    lines = ["", f"{'':<14}{'weights MB':>12}{'engine MB':>12}{'bits/weight':>13}"]
    for name, size in report["sizes"].items():
        lines.append(
            f"{name:<14}{size['file_bytes'] / 1e6:>12.2f}{size['step_bytes'] / 1e6:>12.2f}"
            f"{size['bits_per_weight']:>13.3f}"
        )
    phases = {k: v for k, v in report["seconds"].items() if not k.startswith("sampling_")}
    lines.append("")
    lines += [f"{name:<24}{seconds:>8.1f} s" for name, seconds in phases.items()]
    lines.append("")
    return lines + list(files.values())


def _require_modules() -> None:
    """Say at once what is missing, not after minutes of work."""
    missing = [name for name in _MODULES if find_spec(name) is None]
    if missing:
        raise BackendUnavailable(
            f"the demonstration needs {', '.join(missing)}; pip install 'vq4dit[calibrate]'"
        )


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Record how long a phase takes, wall clock."""
    start = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - start
