"""What does the cost model say of GPUs that nobody measured, and how far may one trust it?

Predicts, for every GPU of the table, the goals of the CUDA kernels and a whole DiT-XL/2 step, and
repeats it with each assumed efficiency moved to both ends of what is plausible.
`python benchmarks/gpu_predictions.py` writes results/gpu_predictions.json and the section
`gpu-predictions` of RESULTS.md: {"label": "predicted", "calibration", "goals": [{"gpu", "goal",
"wanted", "predicted", "low", "high", "moved_most_by"}], "by_rows": [...], "steps": [...],
"gpus": [...]}. Every figure is predicted; none was measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from calibration_study.report import replace_section
from gpu_predictions_report import render

from vq4dit.json_fields import parse_json
from vq4dit.json_file import write_json
from vq4dit.plugins.cuda.codebook_format import CodebookFormat
from vq4dit.plugins.cuda.efficiency import ASSUMED, Efficiencies
from vq4dit.plugins.cuda.gpu_table import GPUS, Gpu
from vq4dit.plugins.cuda.selection import (
    AHEAD_OF_TIME,
    UNASKED_SHARED,
    WITH_DECODE,
    WITH_SPLIT,
    Launcher,
    choose_codebook,
    choose_dense,
)
from vq4dit.prediction import predict

#: DiT-XL/2's token linears (K, N) and adaLN's.
TOKEN_SHAPES = ((1152, 3456), (1152, 1152), (1152, 4608), (4608, 1152))
ADALN = (1152, 6912)
BLOCKS = 28
TOKEN_ROWS = (16, 64, 128, 256, 512, 1024, 4096)

#: Efficiency -> ends of the plausible range.
RANGES: dict[str, tuple[float, float]] = {
    "codebook_tensor": (0.60, 0.80),
    "library_tensor": (0.70, 0.90),
    "one_warp": (0.70, 1.0),
    "shared": (0.75, 1.0),
    "issue": (0.75, 1.0),
    "dram": (0.75, 0.92),
    "l2": (0.40, 0.90),
    "serial": (0.05, 0.30),
    "launch": (0.5, 2.0),
}

TWO_BITS = CodebookFormat.from_bits(2)
Ratio = Callable[[Gpu, Efficiencies], float]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A ratio fp16 / ours that is wanted on some GPUs."""

    name: str
    wanted: dict[str, float]
    ratio: Ratio


def token_ratio(m: int, launcher: Launcher = AHEAD_OF_TIME) -> Ratio:
    """Geometric mean over the token shapes of fp16 time over ours."""

    def ratio(gpu: Gpu, efficiencies: Efficiencies) -> float:
        return geometric_mean(
            choose_dense(gpu, m, n, k, efficiencies=efficiencies).seconds
            / choose_codebook(
                gpu, m, n, k, TWO_BITS, launcher=launcher, efficiencies=efficiencies
            ).seconds
            for k, n in TOKEN_SHAPES
        )

    return ratio


def adaln_ratio(
    m: int, *, blocks: int = 1, dense_launches: int = 1, launcher: Launcher = AHEAD_OF_TIME
) -> Ratio:
    """adaLN of some blocks in one launch of ours, against so many launches of fp16."""

    def ratio(gpu: Gpu, efficiencies: Efficiencies) -> float:
        k, n = ADALN
        each = blocks // dense_launches * n
        dense = choose_dense(gpu, m, each, k, efficiencies=efficiencies).seconds
        weight = CodebookFormat.from_bits(2, row_groups=blocks)
        ours = choose_codebook(
            gpu, m, blocks * n, k, weight, launcher=launcher, efficiencies=efficiencies
        ).seconds
        return dense_launches * dense / ours

    return ratio


GOALS = (
    Goal(
        name="GEMM, M = 512, geo-mean of 4",
        wanted={"a100-40": 0.9, "a100-80": 0.9, "orin-agx": 0.9},
        ratio=token_ratio(512),
    ),
    Goal(
        name="the same, with 48 KiB of shared memory a block",
        wanted={},
        ratio=token_ratio(512, UNASKED_SHARED),
    ),
    Goal(
        name="the same, best of fused and decode-then-GEMM",
        wanted={},
        ratio=token_ratio(512, WITH_DECODE),
    ),
    Goal(
        name="the same, if blocks could split K (not built)",
        wanted={},
        ratio=token_ratio(512, WITH_SPLIT),
    ),
    Goal(
        name="adaLN of 28 blocks in one launch, M = 2, fp16 in 28",
        wanted={"a100-40": 6, "a100-80": 6, "orin-agx": 6},
        ratio=adaln_ratio(2, blocks=BLOCKS, dense_launches=BLOCKS),
    ),
    Goal(
        name="the same, fp16 in one launch too",
        wanted={},
        ratio=adaln_ratio(2, blocks=BLOCKS),
    ),
    Goal(
        name="fp16 in 28, ours with 48 KiB of shared memory a block",
        wanted={},
        ratio=adaln_ratio(2, blocks=BLOCKS, dense_launches=BLOCKS, launcher=UNASKED_SHARED),
    ),
    Goal(
        name="GEMV, M = 4, one layer",
        wanted={"a100-40": 3, "a100-80": 3, "orin-agx": 4},
        ratio=adaln_ratio(4),
    ),
)


def main() -> None:
    """Predict, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = Path(__file__).parent
    parser.add_argument("--output", type=Path, default=folder / "results" / "gpu_predictions.json")
    parser.add_argument("--efficiencies", type=Path, help="file of gpu_calibrate.py")
    args = parser.parse_args()
    efficiencies = ASSUMED
    if args.efficiencies:
        text = args.efficiencies.read_bytes()
        efficiencies = Efficiencies.from_dict(parse_json(text, str(args.efficiencies)))
    document = predictions(efficiencies)
    write_json(args.output, document)
    text = render(document)
    print(text)
    replace_section(folder / "RESULTS.md", "gpu-predictions", text)


def predictions(efficiencies: Efficiencies = ASSUMED) -> dict[str, Any]:
    """All that the report holds."""
    return {
        "label": "predicted",
        "calibration": efficiencies.calibration,
        "efficiencies": efficiencies.to_dict(),
        "ranges": {name: list(ends) for name, ends in RANGES.items()},
        "goals": [goal_row(goal, gpu, efficiencies) for goal in GOALS for gpu in GPUS.values()],
        "by_rows": [_rows_row(gpu, m, efficiencies) for gpu in GPUS.values() for m in TOKEN_ROWS],
        "shapes": [
            row
            for name in ("a100-40", "orin-agx", "h100")
            for row in _shape_rows(GPUS[name], efficiencies)
        ],
        "steps": [_step_row(name, efficiencies) for name in GPUS],
        "gpus": [asdict(gpu) for gpu in GPUS.values()],
    }


def goal_row(goal: Goal, gpu: Gpu, efficiencies: Efficiencies) -> dict[str, Any]:
    """A goal on a GPU, and how far each efficiency alone can move it."""
    predicted = goal.ratio(gpu, efficiencies)
    moved = {
        name: [goal.ratio(gpu, _with(efficiencies, name, end)) for end in ends]
        for name, ends in RANGES.items()
    }
    spread = {name: max(ends) - min(ends) for name, ends in moved.items()}
    return {
        "gpu": gpu.name,
        "goal": goal.name,
        "wanted": goal.wanted.get(gpu.name),
        "predicted": round(predicted, 3),
        "low": round(min(min(ends) for ends in moved.values()), 3),
        "high": round(max(max(ends) for ends in moved.values()), 3),
        "moved_most_by": max(spread, key=lambda name: spread[name]),
    }


def _rows_row(gpu: Gpu, m: int, efficiencies: Efficiencies) -> dict[str, Any]:
    """Ratios of fused kernels and of the best, and where decoding first is the best."""
    best = [
        choose_codebook(gpu, m, n, k, TWO_BITS, launcher=WITH_DECODE, efficiencies=efficiencies)
        for k, n in TOKEN_SHAPES
    ]
    return {
        "gpu": gpu.name,
        "m": m,
        "ratio": round(token_ratio(m)(gpu, efficiencies), 3),
        "best_ratio": round(token_ratio(m, WITH_DECODE)(gpu, efficiencies), 3),
        "decoded_shapes": sum(found.kernel == "decode_then_gemm" for found in best),
    }


def _with(efficiencies: Efficiencies, name: str, value: float) -> Efficiencies:
    values: dict[str, Any] = {name: value}
    return replace(efficiencies, **values)


def _shape_rows(gpu: Gpu, efficiencies: Efficiencies) -> list[dict[str, Any]]:
    """Each token shape at M = 512: both kernels, what binds them."""
    rows = []
    for k, n in TOKEN_SHAPES:
        dense = choose_dense(gpu, 512, n, k, efficiencies=efficiencies)
        ours = choose_codebook(gpu, 512, n, k, TWO_BITS, efficiencies=efficiencies)
        rows.append(
            {
                "gpu": gpu.name,
                "k": k,
                "n": n,
                "fp16_us": round(dense.microseconds, 1),
                "fp16": f"{dense.variant}, split {dense.split_k}: {dense.limit}",
                "ours_us": round(ours.microseconds, 1),
                "ours": f"{ours.kernel} {ours.variant}: {ours.limit}",
                "waves": ours.waves,
                "blocks_per_sm": ours.blocks_per_sm,
            }
        )
    return rows


def _step_row(gpu: str, efficiencies: Efficiencies) -> dict[str, Any]:
    profile = predict("DiT-XL/2", gpu, 1, efficiencies=efficiencies)
    return {
        "gpu": gpu,
        "batch": 1,
        "rows": 512,
        **{f"{w}_ms": round(profile.step_ms(w), 2) for w in profile.weights},
        **{f"{w}_parts_ms": profile.parts_ms(w) for w in profile.weights},
        **{f"{w}_weights_mib": profile.memory[w].weights_bytes / 2**20 for w in profile.weights},
    }


if __name__ == "__main__":
    main()
