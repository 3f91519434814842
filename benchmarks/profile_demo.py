"""Can the profiler be trusted? Host overhead, closure of the parts, and what profiling costs.

On engines such as those of the demonstration model:

  host_overhead      time between two engine runs of a picture, batch 1, each sampler
  closure            sum of the nodes' times over a run without profiler, step and decoder
  profiler_overhead  the same runs bare and under the profiler without times of layers, in turn

    python benchmarks/profile_demo.py out/engines/fp out/engines/calibrated [--threads 1]

Writes benchmarks/results/profile_demo.json and its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from calibration_study.report import replace_section
from machine import machine

from vq4dit.json_file import write_json
from vq4dit.runtime.pipeline import Pipeline
from vq4dit.runtime.profiling.engine_under_test import EngineUnderTest
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
ROUNDS = 15
RUNS = 20

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


def host_overhead(path: Path, threads: int, sampler: str) -> dict[str, Any]:
    """Time outside the engine's runs of whole pictures."""
    options = ProfileOptions(
        steps=STEPS, sampler=sampler, image_repeats=10, seconds=60.0, threads=threads
    )
    with EngineUnderTest(path.name, path, options) as engine:
        engine.measure_pictures()
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
        return seconds_of(lambda: [run() for _ in range(RUNS)]) / RUNS

    def profiled() -> float:
        times = timed_in_turn([run], repeats=RUNS, budget_seconds=60.0)[0]
        return sum(times) / len(times)

    return overhead_row(name, "step", bare, profiled)


def picture_overhead(name: str, pipeline: Pipeline) -> dict[str, Any]:
    """Whole pictures with and without the logs around the engine's runs."""
    draw = partial(pipeline, 0, steps=STEPS)

    def profiled() -> float:
        with timed(pipeline):
            return seconds_of(draw)

    return overhead_row(name, "picture", lambda: seconds_of(draw), profiled)


def overhead_row(
    name: str, of: str, bare: Callable[[], float], profiled: Callable[[], float]
) -> dict[str, Any]:
    """Alternate both; the overhead is the median over rounds of the ratio, less 1."""
    bare(), profiled()
    pairs = []
    for i in range(ROUNDS):
        first, second = (bare, profiled) if i % 2 else (profiled, bare)
        values = {first: first(), second: second()}
        pairs.append((values[bare], values[profiled]))
    return {"what": "profiler_overhead", "engine": name, "of": of,
            "bare_ms": 1e3 * median(b for b, _ in pairs),
            "profiled_ms": 1e3 * median(p for _, p in pairs),
            "overhead": median(p / b for b, p in pairs) - 1, "rounds": ROUNDS}  # fmt: skip


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
the end of one engine run to the begin of the next, over 10 pictures of {STEPS} steps. Closure: sum
of the nodes' times, less what ONNX Runtime's profiler adds to each, over the run without profiler;
the fastest quarter of 120 runs in turn. Profiler's overhead: the same work bare and as
`vq4dit profile --no-layers` does it, {ROUNDS} rounds in turn, median of the ratios.

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

| profiler's overhead (goal 0.03) | of | bare, ms | profiled, ms | overhead |
|---|---|---:|---:|---:|
{_lines(rows["profiler_overhead"], "engine", "of", "bare_ms", "profiled_ms", "overhead")}
"""  # fmt: skip


def _lines(rows: list[dict[str, Any]], *keys: str) -> str:
    return "\n".join(
        "| " + " | ".join(_text(row[key]) for key in keys) + " |" for row in rows
    )  # fmt: skip


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
