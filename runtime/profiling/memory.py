"""How much memory an engine takes, phase by phase, in a process of its own.

Run as `python -m vq4dit.runtime.profiling.memory ENGINE '{"batch": 1, ...}'` it prints one JSON
object: for each phase the resident memory after it and the peak within it. A process of its own has
no other engine's memory in it. Linux counts: anonymous memory is what the process wrote, file
memory are mapped weights and libraries that the system can drop and read again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vq4dit.errors import Vq4ditError

PHASES = ("imports", "load", "first step", "steady", "decode")

_STEADY_STEPS = 5
_KIB = 1024
_FIELDS = {"VmRSS": "rss_bytes", "VmHWM": "peak_bytes", "RssAnon": "anonymous_bytes",
           "RssFile": "file_bytes"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Memory of a process in bytes; `peak_bytes` since the start or the last `reset_peak`."""

    rss_bytes: int
    peak_bytes: int
    anonymous_bytes: int
    file_bytes: int


def read_memory(process: Path = Path("/proc/self")) -> MemoryUse | None:
    """Memory of a process, None on systems without /proc."""
    status = process / "status"
    if not status.is_file():
        return None
    values = dict.fromkeys(_FIELDS.values(), 0)
    for line in status.read_text().splitlines():
        key, _, value = line.partition(":")
        if key in _FIELDS:
            values[_FIELDS[key]] = int(value.split()[0]) * _KIB
    return MemoryUse(**values)


def reset_peak(process: Path = Path("/proc/self")) -> bool:
    """Let the peak begin anew; False where the system does not allow it."""
    try:
        (process / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def memory_by_phase(engine: Path, options: dict[str, Any], *, timeout: float) -> dict[str, Any]:
    """Load and run an engine in a new process and give its phases, ready for JSON.

    Args:
        engine: engine directory.
        options: batch, threads, accuracy and providers, as `Pipeline` takes them.
        timeout: seconds.
    Raises:
        Vq4ditError: the process failed, with its last words.
    """
    command = [sys.executable, "-m", __name__, str(engine), json.dumps(options)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise Vq4ditError(
            f"{engine}: the memory of its phases was not known after {timeout:.0f} s; "
            "profile with --no-memory"
        ) from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Vq4ditError(f"{engine}: the process that measures memory failed: {last}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _measure(engine: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What the new process does."""
    import onnxruntime  # noqa: F401  # its memory is not the engine's

    from vq4dit.runtime.pipeline import Pipeline

    from .devices import device_memory_used
    from .inputs import step_inputs

    phases: list[dict[str, Any]] = []
    can_reset = True

    def note(name: str, work: Callable[[], Any]) -> Any:
        nonlocal can_reset
        can_reset = reset_peak() and can_reset
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        use = read_memory()
        if use is not None:
            entry = {"phase": name, "seconds": seconds, **asdict(use)}
            phases.append({**entry, "device_bytes": device_memory_used()})
        return result

    note("imports", lambda: None)
    pipeline = note(
        "load",
        lambda: Pipeline(
            engine,
            accuracy=options["accuracy"],
            threads=options["threads"],
            providers=options["providers"],
        ),
    )
    inputs = step_inputs(pipeline.manifest, options["batch"])
    session, decoder = pipeline.sessions.step, pipeline.sessions.decoder
    note("first step", lambda: session.run(inputs))
    note("steady", lambda: [session.run(inputs) for _ in range(_STEADY_STEPS)])
    if decoder is not None:
        note("decode", lambda: decoder.decode(inputs.latent))
    pipeline.close()
    return {"phases": phases, "peak_is_per_phase": can_reset}


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]), json.loads(sys.argv[2]))))
