"""A process that holds one implementation and runs a step when it is asked to.

As a program: `python -m xl_step.child NAME MODEL THREADS` answers each line of standard input
with a line of JSON; `python -m xl_step.child phases ENGINE THREADS` tells the memory by phase.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from xl_step.implementations import IMPLEMENTATIONS, step_inputs
from xl_step.memory import memory_bytes, reset_peak

_FOLDER = Path(__file__).resolve().parent.parent
PHASES = "phases"


class Child:
    """The parent's side: asks, and reads the answers."""

    def __init__(self, process: subprocess.Popen[str], first: dict[str, Any]) -> None:
        self._process = process
        self.load_seconds: float = first["load_seconds"]
        self.output: list[float] = first["output"]

    @classmethod
    def start(cls, name: str, model: Path, *, threads: int) -> Child:
        """Start the process and wait until it has run its first step."""
        process = _popen(name, model, threads)
        return cls(process, _answer(process))

    def ask(self, what: str) -> dict[str, float]:
        """ "step" or "memory"; ends the benchmark if the process died."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return _answer(self._process)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    @staticmethod
    def phases(engine: Path, *, threads: int) -> dict[str, Any]:
        """Memory and seconds of load, sampling, release, decoder load and decode."""
        process = _popen(PHASES, engine, threads)
        answer = _answer(process)
        process.wait()
        return answer


def _popen(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "xl_step.child", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=_FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args}: ended with code {process.wait()}")
    return json.loads(line)


def _serve(name: str, model: Path, threads: int) -> None:
    """Load, run the first step, then answer."""
    inputs = step_inputs()
    start = time.perf_counter()
    step = IMPLEMENTATIONS[name](model, threads)
    output = step(inputs)
    seconds = round(time.perf_counter() - start, 3)
    _tell({"load_seconds": seconds, "output": output.ravel().tolist()})
    for line in sys.stdin:
        if line.strip() == "memory":
            _tell(memory_bytes())
            continue
        start, cpu = time.perf_counter(), time.process_time()
        step(inputs)
        times = (time.perf_counter() - start, time.process_time() - cpu)
        _tell({"ms": 1000 * times[0], "cpu_ms": 1000 * times[1]})


def _phases(engine: Path, threads: int, *, steps: int = 4) -> dict[str, dict[str, float]]:
    """low_memory: one model at a time, and what is resident at the end of each phase."""
    from vq4dit.runtime.pipeline import Pipeline

    found: dict[str, dict[str, float]] = {}

    def phase(name: str, start: float) -> float:
        found[name] = {"seconds": round(time.perf_counter() - start, 3), **memory_bytes()}
        reset_peak()
        return time.perf_counter()

    now = time.perf_counter()
    with Pipeline(engine, threads=threads, low_memory=True) as pipeline:
        now = phase("load", now)
        latents = pipeline([207], steps=steps, output="latent")
        now = phase(f"{steps} steps", now)
        pipeline.decode(latents)
        phase("decoder load and decode", now)
    return found


def _tell(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _name, _model, _threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if _name == PHASES:
        _tell(_phases(_model, _threads))
    else:
        _serve(_name, _model, _threads)
