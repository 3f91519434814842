"""Does mixed precision pay? Quality over bits per weight on the demonstration model.

`python benchmarks/mixed_precision.py` quantizes uniformly to 1, 2, 3 and 4 bits and by allocation
to several targets, two of them exactly the bits that uniform 2 and 3 take, and draws equal pictures
with each. It runs the rows that results/mixed_precision.json does not have yet, writes that file
after each, and renders the table in RESULTS.md; it can be stopped at any time and goes on where it
was. A row that failed is kept with its "error"; `--again` runs everything once more.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from calibration_study.drawing import draw_with, save_latents
from calibration_study.plan import hash_code, hash_settings
from calibration_study.report import replace_section
from calibration_study.results import study_machine

from vq4dit import demo
from vq4dit.accounting import size_from_shapes, size_from_weights
from vq4dit.calibrate.recipe import Recipe, recipe_by_name
from vq4dit.calibrate.run import calibrate
from vq4dit.calibrate.source import open_weights
from vq4dit.errors import Vq4ditError
from vq4dit.evaluation import (
    EvaluationSettings,
    Samples,
    balanced_labels,
    measure,
)
from vq4dit.json_file import write_json
from vq4dit.model_config import ModelConfig

_FOLDER = Path(__file__).resolve().parent
_UNIFORM_BITS = (1, 2, 3, 4)

_METHOD = """\
`uniform`: one configuration for all linears. `mixed`: 1 to 4 bits for each linear, allocated by
measured sensitivity within the bits per weight in the name. Both count codebooks and packing.
Metrics as in `docs/evaluation.md`: equal labels and noise for all models, DDIM, cfg 2, CPU engine;
"x FP" is the Fréchet distance over full precision's. Predicted: sum of the sensitivities, before
any training. Picture: `python benchmarks/plot_mixed_precision.py`.

![latent error over bits per weight](../docs/images/mixed-precision.png)"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model: full precision (neither), uniform (bits) or mixed (target_bits)."""

    name: str
    bits: int | None = None
    target_bits: float | None = None


class Study:
    """Makes the rows' models, draws with them, keeps the results file."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Open the checkpoint and the rows of earlier runs."""
        import torch

        torch.set_num_threads(args.threads)
        self._args, self._recipe = args, _recipe(args)
        self._source = open_weights(args.checkpoint)
        self._labels = balanced_labels(args.num_images, self._source.config.num_classes)
        self.rows: list[dict[str, Any]] = []
        if args.output.is_file() and not args.again:
            self.rows = json.loads(args.output.read_text(encoding="utf-8"))["rows"]
        args.work.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Do the rows that do not stand yet, full precision first."""
        for row in _plan(self._source.config, self._args.targets):
            if self._find(row) is None or (row.name == "fp" and not self._latents.is_file()):
                self._add(row, self._numbers(row))

    def document(self) -> dict[str, Any]:
        """What the results file holds."""
        return {"machine": study_machine(), "rows": self.rows}

    def _find(self, row: Row) -> dict[str, Any] | None:
        """The result of a row with the present settings."""
        settings = self._settings(row)
        return next((found for found in self.rows if found["settings"] == settings), None)

    def _add(self, row: Row, numbers: dict[str, Any]) -> None:
        """Put a result in the place of one with the same settings, or last; write the file."""
        result = {
            "name": row.name,
            "settings": self._settings(row),
            "recipe": self._recipe.name,
            "num_images": self._args.num_images,
            "steps": self._args.steps,
            **numbers,
        }
        self.rows = [found for found in self.rows if found["settings"] != result["settings"]]
        self.rows.append(result)
        self._args.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._args.output, self.document())
        print(json.dumps({k: v for k, v in result.items() if k != "allocation"}), flush=True)

    def _numbers(self, row: Row) -> dict[str, Any]:
        """Quantize, build, draw and measure; or why not."""
        try:
            if row.name == "fp":
                return {"bits_per_weight": 32.0, **self._evaluate(row, self._args.checkpoint)}
            name = f"{self._settings(row, drawn=False)}-{hash_code()}.vq.safetensors"
            artifact = self._args.work / name
            values = self._calibrate(row, artifact)
            size = size_from_weights(open_weights(artifact))
            return {
                "bits_per_weight": size.bits_per_weight,
                "file_bytes": artifact.stat().st_size,
                **self._evaluate(row, artifact),
                **values,
            }
        except (Vq4ditError, OSError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _calibrate(self, row: Row, artifact: Path) -> dict[str, Any]:
        """Make the artifact, or take an earlier run's; what its summary says."""
        summary = artifact.with_suffix(".json")
        if self._args.again or not (artifact.is_file() and summary.is_file()):
            done = calibrate(
                self._args.checkpoint,
                artifact,
                bits=row.bits or 2,
                target_bits=row.target_bits,
                recipe=self._recipe,
                resume=True,
            )
            write_json(summary, done.to_dict())
        values = json.loads(summary.read_text(encoding="utf-8"))
        return {"seconds": values["seconds"], "allocation": values["allocation"]}

    def _evaluate(self, row: Row, weights: Path) -> dict[str, Any]:
        """Build an engine, draw, and compare with full precision."""
        args = self._args
        settings = EvaluationSettings(
            num_images=args.num_images, steps=args.steps, threads=args.threads
        )
        samples, classify = draw_with(
            open_weights(weights), args.work / f"{row.name}.engine", self._labels, settings,
            vae=args.vae, target=args.target,
        )  # fmt: skip
        if row.name == "fp":
            save_latents(self._latents, samples)
        reference = Samples(latents=np.load(self._latents), pictures=None, seconds=0.0)
        metrics = measure(samples, reference, self._labels, classify)
        return {**asdict(metrics), "drawing_seconds": round(samples.seconds, 1)}

    @property
    def _latents(self) -> Path:
        """What full precision drew."""
        return self._args.work / f"fp-{self._settings(Row(name='fp'))}.npy"

    def _settings(self, row: Row, *, drawn: bool = True) -> str:
        """Hash of all that a row's numbers, or its artifact alone, follow from."""
        values = {
            **asdict(row),
            "checkpoint": self._source.sha256,
            "recipe": None if row.name == "fp" else self._recipe.to_dict(),
            "threads": self._args.threads,
        }
        if drawn:
            values |= {key: getattr(self._args, key) for key in ("num_images", "steps", "target")}
        return hash_settings(values)


def _recipe(args: argparse.Namespace) -> Recipe:
    """The named recipe, with fewer steps where the options say so."""
    recipe = recipe_by_name(args.recipe)
    fields = ("soft_steps", "distill_steps", "num_trajectories", "trajectory_steps")
    given = {name: getattr(args, name) for name in fields if getattr(args, name) is not None}
    return replace(recipe, **given)


def _plan(config: ModelConfig, targets: list[float] | None) -> list[Row]:
    """Full precision, the uniform configurations, the targets."""
    uniform = {bits: size_from_shapes(config, bits).bits_per_weight for bits in _UNIFORM_BITS}
    targets = targets or [1.5, uniform[2], 2.5, uniform[3], 4.0]
    return [
        Row(name="fp"),
        *(Row(name=f"uniform-{bits}", bits=bits) for bits in _UNIFORM_BITS),
        *(Row(name=f"mixed-{target:.3f}", target_bits=target) for target in targets),
    ]


def render(document: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    lines = ["## Mixed precision on the demonstration model", "", _METHOD, ""]
    machine = document["machine"]
    lines += [
        f"Command: `python benchmarks/mixed_precision.py`. Machine: {machine['processor']}, "
        f"{machine['processors']} processors.",
        "",
    ]
    rows = document["rows"]
    for key in sorted({(row["recipe"], row["num_images"], row["steps"]) for row in rows}):
        of_key = [row for row in rows if (row["recipe"], row["num_images"], row["steps"]) == key]
        lines += [f"### Recipe {key[0]}, {key[1]:,} pictures, {key[2]} DDIM steps", ""]
        full = _full_precision(rows, num_images=key[1], steps=key[2])
        lines += _table(of_key, full) + [""]
    failures = [f"- `{row['name']}`: {row['error']}" for row in rows if "error" in row]
    return "\n".join([*lines, *(["Failures:", "", *failures] if failures else [])])


def _full_precision(rows: list[dict[str, Any]], *, num_images: int, steps: int) -> float | None:
    """Full precision's Fréchet distance with as many pictures and steps; it has no recipe."""
    alike = (row for row in rows if (row["num_images"], row["steps"]) == (num_images, steps))
    return next((row["frechet_distance"] for row in alike if row["name"] == "fp"), None)


def _table(rows: list[dict[str, Any]], full: float | None) -> list[str]:
    """A Markdown table, by bits per weight; `full` is full precision's Fréchet distance."""
    rows = sorted((row for row in rows if "error" not in row), key=lambda r: r["bits_per_weight"])
    lines = ["| model | bits/weight | Fréchet | x FP | latent error | diversity | predicted |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        distance = row["frechet_distance"]
        ratio = distance / full if distance is not None and full else None
        predicted = (row.get("allocation") or {}).get("predicted_error")
        cells = [
            row["name"], f"{row['bits_per_weight']:.3f}", _number(distance, 3), _number(ratio, 3),
            _number(row["relative_latent_error"], 4), _number(row["diversity"], 3),
            _number(predicted, 5),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def main(argv: list[str] | None = None) -> None:
    """Run what is missing, then render."""
    args = _arguments(argv)
    study = Study(args)
    study.run()
    replace_section(args.markdown, "mixed precision", render(study.document()))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--num-images", type=int, default=500, help="pictures per model")
    parser.add_argument("--steps", type=int, default=20, help="DDIM steps")
    parser.add_argument(
        "--targets", type=float, nargs="+", default=None,
        help="bits per weight of the mixed rows; 1.5, uniform 2's, 2.5, uniform 3's and 4 if none",
    )  # fmt: skip
    parser.add_argument("--recipe", default="vq4dit", help="of the calibration")
    for name in ("soft-steps", "distill-steps", "num-trajectories", "trajectory-steps"):
        parser.add_argument(f"--{name}", type=int, default=None, help="the recipe's if not given")
    parser.add_argument("--again", action="store_true", help="run rows that stand there, too")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of all work")
    parser.add_argument("--target", default="cpu", help="of the engines")
    parser.add_argument(
        "--checkpoint", type=Path, default=demo.checkpoint_path(), help="full-precision model"
    )
    parser.add_argument("--vae", type=Path, default=demo.vae_path(), help="its AutoencoderKL")
    parser.add_argument(
        "--output", type=Path, default=_FOLDER / "results" / "mixed_precision.json", help="results"
    )
    parser.add_argument(
        "--markdown", type=Path, default=_FOLDER / "RESULTS.md", help="where the table goes"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("out/mixed-precision"), help="artifacts, latents"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
