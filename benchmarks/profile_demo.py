"""Can the profiler be trusted? Host overhead, closure of the parts, and what profiling costs.

On engines such as those of the demonstration model:

  host_overhead      time between two engine runs of a picture, batch 1, each sampler; for pictures
                     of 256 x 256 and 512 x 512 with engines of two narrow blocks made for it
  closure            sum of the nodes' times over a run without profiler, step and decoder
  profiler_overhead  the same runs bare and under the profiler without times of layers, in turn:
                     bare, profiled, profiled, bare, so that a steady drift of the machine drops out

    python benchmarks/profile_demo.py out/engines/fp out/engines/calibrated [--threads 1]

Writes benchmarks/results/profile_demo.json and its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from math import floor, sqrt
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from calibration_study.report import replace_section
from machine import machine
from random_weights import RandomWeights

from vq4dit.engines.build import build_engine
from vq4dit.json_file import write_json
from vq4dit.model_config import ModelConfig
from vq4dit.runtime.pipeline import Pipeline
from vq4dit.runtime.profiling.engine_under_test import EngineUnderTest, measure_pictures
from vq4dit.runtime.profiling.event_cost import measure_event_cost
from vq4dit.runtime.profiling.inputs import step_inputs
from vq4dit.runtime.profiling.latency import timed_in_turn
from vq4dit.runtime.profiling.layers import decoder_layers, step_layers
from vq4dit.runtime.profiling.options import ProfileOptions
from vq4dit.runtime.profiling.peaks import measure_peaks
from vq4dit.runtime.profiling.timed_sessions import timed
from vq4dit.runtime.samplers import SAMPLERS

FOLDER = Path(__file__).parent
STEPS = 50

#: Rounds of bare, profiled, profiled, bare; what one measurement of them runs.
ROUNDS = 120
STEP_RUNS = 5
PICTURE_STEPS = 10

#: Normal deviate of a 95 % interval.
DEVIATE = 1.96

#: Goals of the project: milliseconds, distance of the closure from 1, share of the latency.
GOALS = {"host_overhead": 0.5, "closure": 0.05, "profiler_overhead": 0.03}


def main() -> None:
    """Measure all rows and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", type=Path, nargs="+", help="engine directories")
    parser.add_argument("--threads", type=int, default=1, help="threads of one step")
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "profile_demo.json")
    parser.add_argument("--markdown", type=Path, default=FOLDER / "RESULTS.md")
    args = parser.parse_args()
    rows = [row for path in args.engines for row in rows_of_engine(path, args.threads)]
    with TemporaryDirectory() as folder:
        rows += rows_of_sizes(Path(folder), args.threads)
    document = {
        "machine": machine(("vq4dit", "numpy", "onnxruntime")),
        "goals": GOALS,
        "threads": args.threads,
        "rows": rows,
    }
    write_json(args.output, document)
    replace_section(args.markdown, "profile-demo", render(document))


def rows_of_engine(path: Path, threads: int) -> Iterator[dict[str, Any]]:
    """Every row of one engine."""
    for sampler in SAMPLERS:
        yield host_overhead(path, threads, sampler)
    for batch in (1, 8):
        yield from closures(path, threads, batch)
    with Pipeline(path, threads=threads) as pipeline:
        yield step_overhead(path.name, pipeline)
        yield picture_overhead(path.name, pipeline)


def rows_of_sizes(folder: Path, threads: int) -> Iterator[dict[str, Any]]:
    """Host overhead with the latents of pictures of 256 x 256 and 512 x 512."""
    for size in (32, 64):
        config = ModelConfig(input_size=size, patch_size=2, in_channels=4, hidden_size=192,
                             depth=2, num_heads=3, num_classes=1000)  # fmt: skip
        path = folder / f"two blocks, {8 * size} x {8 * size}"
        build_engine(RandomWeights(config=config, bits=2), path, target="cpu")
        for sampler in ("ddim", "ddpm"):
            yield host_overhead(path, threads, sampler, steps=20, pictures=5)


def host_overhead(
    path: Path, threads: int, sampler: str, *, steps: int = STEPS, pictures: int = 10
) -> dict[str, Any]:
    """Time outside the engine's runs of whole pictures."""
    options = ProfileOptions(
        steps=steps, sampler=sampler, image_repeats=pictures, seconds=60.0, threads=threads
    )
    with EngineUnderTest(path.name, path, options) as engine:
        measure_pictures([engine], options)
    found = engine.result["host_overhead_per_step"]
    return {"what": "host_overhead", "engine": path.name, "sampler": sampler, "batch": 1,
            "median_ms": found["median_ms"], "p90_ms": found["p90_ms"],
            "p99_ms": found["p99_ms"], "min_ms": found["min_ms"], "count": found["count"],
            "picture_ms": engine.result["image"]["median_ms"]}  # fmt: skip


def closures(path: Path, threads: int, batch: int) -> Iterator[dict[str, Any]]:
    """Account of the nodes of step and decoder."""
    options = ProfileOptions(batch=batch, repeats=120, seconds=30.0, threads=threads)
    peaks, cost = measure_peaks(threads), measure_event_cost()
    with Pipeline(path, threads=threads) as pipeline:
        _, step = step_layers(pipeline, options, peaks=peaks, event_cost=cost)
        decoder = decoder_layers(pipeline, options, peaks=peaks, event_cost=cost)
    for model, found in (("step", step), ("decoder", decoder)):
        if found is not None:
            yield {"what": "closure", "engine": path.name, "model": model, "batch": batch,
                   **found["account"]}  # fmt: skip


def step_overhead(name: str, pipeline: Pipeline) -> dict[str, Any]:
    """Steps with one clock around many, against steps as the profiler times them."""
    session = pipeline.sessions.step
    run = partial(session.run, step_inputs(pipeline.manifest, 1))

    def bare() -> float:
        return seconds_of(lambda: [run() for _ in range(STEP_RUNS)])

    def profiled() -> float:
        return sum(timed_in_turn([run], repeats=STEP_RUNS, budget_seconds=60.0)[0])

    return overhead_row(name, "step", bare, profiled)


def picture_overhead(name: str, pipeline: Pipeline) -> dict[str, Any]:
    """Whole pictures with and without the logs around the engine's runs."""
    draw = partial(pipeline, 0, steps=PICTURE_STEPS)

    def profiled() -> float:
        with timed(pipeline):
            return seconds_of(draw)

    return overhead_row(name, "picture", lambda: seconds_of(draw), profiled)


def overhead_row(
    name: str, of: str, bare: Callable[[], float], profiled: Callable[[], float]
) -> dict[str, Any]:
    """The median over rounds of the ratio less 1, and a 95 % interval of that median."""
    bare(), profiled()
    rounds = []
    for _ in range(ROUNDS):
        before, first, second, after = bare(), profiled(), profiled(), bare()
        rounds.append((before + after, first + second))
    ratios = sorted(p / b - 1 for b, p in rounds)
    low, high = ratios[median_rank(ROUNDS, -1)], ratios[median_rank(ROUNDS, 1)]
    return {"what": "profiler_overhead", "engine": name, "of": of,
            "bare_ms": 1e3 * median(b for b, _ in rounds) / 2,
            "profiled_ms": 1e3 * median(p for _, p in rounds) / 2,
            "overhead": median(ratios), "low": low, "high": high, "rounds": ROUNDS}  # fmt: skip


def median_rank(count: int, sign: int) -> int:
    """Rank of an end of the median's 95 % interval: count / 2 -+ 1.96 sqrt(count) / 2."""
    rank = count / 2 + sign * DEVIATE * sqrt(count) / 2
    return min(max(floor(rank), 0), count - 1)


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def render(document: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    rows = {what: [r for r in document["rows"] if r["what"] == what] for what in GOALS}
    m = document["machine"]
    versions = ", ".join(f"{name} {text}" for name, text in m["versions"].items())
    return f"""\
## Profiler on the demonstration model (`profile_demo.py`)

**Question.** What does the Python loop cost, do the parts add up, what does profiling cost?

**Method.** Engines of the demonstration model, {document["threads"]} thread. Host overhead: from
the end of one engine run to the begin of the next, over 10 pictures of {STEPS} steps, for the large
sizes 5 of 20. Closure: sum
of the nodes' times, less what ONNX Runtime's profiler adds to each, over the run without profiler;
the fastest quarter of 120 runs in turn. Profiler's overhead: the same work ({STEP_RUNS} steps, or a
picture of {PICTURE_STEPS} steps) bare and as `vq4dit profile --no-layers` does it: {ROUNDS} rounds
of bare, profiled, profiled, bare; median of the rounds' ratios, and its 95 % interval.

```
python benchmarks/profile_demo.py out/engines/fp out/engines/calibrated
```

**Machine.** {m["processor"]}, {m["processors"]} processors; load {m["load_average"]:.1f}; \
{versions}.

| host overhead per step, ms (goal 0.5) | sampler | median | p90 | p99 | picture |
|---|---|---:|---:|---:|---:|
{_lines(rows["host_overhead"], "engine", "sampler", "median_ms", "p90_ms", "p99_ms", "picture_ms")}

| sum of parts (goal within 5 %) | model | batch | whole, ms | closure | as reported | nodes | \
us a node taken off |
|---|---|---:|---:|---:|---:|---:|---:|
{_lines(rows["closure"], "engine", "model", "batch", "plain_ms", "closure", "reported_closure",
        "num_nodes", "event_cost_us")}

| profiler's overhead (goal 0.03) | of | bare, ms | profiled, ms | overhead | from | to |
|---|---|---:|---:|---:|---:|---:|
{_lines(rows["profiler_overhead"], "engine", "of", "bare_ms", "profiled_ms", "overhead", "low",
        "high")}
"""  # fmt: skip


def _lines(rows: list[dict[str, Any]], *keys: str) -> str:
    return "\n".join(
        "| " + " | ".join(_text(row[key]) for key in keys) + " |" for row in rows
    )  # fmt: skip


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
