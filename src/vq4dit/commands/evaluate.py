"""Compare quantized engines with the full-precision engine: same labels, same noise, DDIM."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError

if TYPE_CHECKING:
    from ..evaluation import Evaluation

#: Keys of the JSON object that no engine can be named after.
_RESERVED = ("fp", "num_images", "steps", "seconds", "settings", "ok", "files")

#: Columns of comparison.png at most.
_MAX_COLUMNS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vq4dit evaluate`."""
    parser.add_argument(
        "engines",
        nargs="+",
        metavar="ENGINE",
        help="engine directory, or NAME=DIRECTORY; a single one is named 'calibrated', others "
        "after their directory",
    )
    parser.add_argument(
        "--reference", type=Path, required=True, metavar="ENGINE", help="full-precision engine"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("out/evaluate"), help="folder")
    add_sampling_arguments(parser)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """What is drawn for the metrics; `vq4dit demo` has the same."""
    parser.add_argument("--num-images", type=int, default=500, help="pictures per engine")
    parser.add_argument("--steps", type=int, default=20, help="DDIM steps")
    parser.add_argument("--cfg-scale", type=float, default=2.0, help="guidance weight")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--threads", type=int, default=None, help="threads of one step")
    parser.add_argument(
        "--accuracy", choices=("fast", "exact", "int8"), default="fast", help="of kernels"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate, print a table, write metrics.json and comparison.png."""
    engines = named_engines(args.engines)
    args.output.mkdir(parents=True, exist_ok=True)
    evaluation = run_evaluation(args, args.reference, engines)
    files = write_report(evaluation, args.output)
    if not args.json:
        print("\n".join(metrics_table(evaluation)))
        print("\n".join(f"{path}" for path in files.values()))
    return {**evaluation.to_dict(), "files": files}


def named_engines(arguments: list[str]) -> dict[str, Path]:
    """Name -> directory, from arguments DIRECTORY or NAME=DIRECTORY."""
    engines: dict[str, Path] = {}
    for argument in arguments:
        name, separator, directory = argument.rpartition("=")
        if not separator:
            name = "calibrated" if len(arguments) == 1 else Path(argument).resolve().name
        if name in _RESERVED or name in engines or not name:
            raise OptionError(
                f"engine name {name!r} is taken; name the engines apart: NAME=DIRECTORY"
            )
        engines[name] = Path(directory)
    return engines


def run_evaluation(
    args: argparse.Namespace, reference: Path, engines: dict[str, Path]
) -> Evaluation:
    """Evaluate with the options of `add_sampling_arguments`, a progress bar on stderr."""
    from ..evaluation import EvaluationSettings, evaluate
    from ..stage_bar import StageBar

    settings = EvaluationSettings(
        num_images=args.num_images,
        steps=args.steps,
        cfg_scale=args.cfg_scale,
        seed=args.seed,
        threads=args.threads,
        accuracy=args.accuracy,
    )
    with StageBar(quiet=args.quiet) as bar:
        return evaluate(reference, engines, settings, bar)


def write_report(evaluation: Evaluation, folder: Path) -> dict[str, str]:
    """Write metrics.json, and comparison.png where there are pictures; returns their paths."""
    from ..json_file import write_json

    path = folder / "metrics.json"
    write_json(path, evaluation.to_dict())
    files = {"metrics": str(path)}
    rows = [(n, s.pictures) for n, s in evaluation.samples.items() if s.pictures is not None]
    if rows:
        from ..comparison import comparison_picture
        from ..runtime.images import save_png

        columns = min(len(set(evaluation.labels.tolist())), _MAX_COLUMNS)
        labels = evaluation.labels[:columns]
        names = [evaluation.label_names[i] if evaluation.label_names else str(i) for i in labels]
        picture = comparison_picture([(n, p[:columns]) for n, p in rows], names)
        files["comparison"] = str(folder / "comparison.png")
        save_png(folder / "comparison.png", picture, {"Title": "vq4dit evaluate"})
    return files


def metrics_table(evaluation: Evaluation) -> list[str]:
    """Lines of a table of at most 80 columns."""
    lines = [
        f"{'':<14}{'Fréchet':>10}{'latent':>10}{'diversity':>11}{'label':>10}{'sampling':>10}",
        f"{'':<14}{'distance':>10}{'error':>10}{'(fp = 1)':>11}{'accuracy':>10}{'seconds':>10}",
    ]
    for name, metrics in evaluation.metrics.items():
        lines.append(
            f"{name[:13]:<14}{_number(metrics.frechet_distance, 2):>10}"
            f"{_number(metrics.relative_latent_error, 4):>10}{_number(metrics.diversity, 3):>11}"
            f"{_number(metrics.label_accuracy, 3):>10}"
            f"{_number(evaluation.samples[name].seconds, 1):>10}"
        )
    settings = evaluation.settings
    lines.append(
        f"{settings.num_images} pictures, {settings.steps} DDIM steps, cfg {settings.cfg_scale:g}"
    )
    return lines


def _number(value: float | None, digits: int) -> str:
    """A number with so many digits, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"
