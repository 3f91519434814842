"""One calibration in a process of its own, so that its peak memory is its own.

As a program: `python worker.py JOB.json` calibrates what the job says and writes job["result"].
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vq4dit.atomic_file import atomic_path
from vq4dit.errors import Vq4ditError
from vq4dit.json_file import write_json


def calibrate_in_subprocess(
    checkpoint: Path, artifact: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """Calibrate a checkpoint, or take what an earlier call left in the same place.

    Args:
        checkpoint: full precision.
        artifact: where it goes; its summary goes beside it as .json.
        settings: "bits", "seed", "threads" and "recipe", all fields of a Recipe.
    Returns:
        The summary, and "cpu_seconds" and "wall_seconds" of the whole process.
    Raises:
        Vq4ditError: the calibration failed or was killed.
    """
    result = artifact.with_suffix(".json")
    if artifact.is_file() and result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    job = artifact.with_suffix(".job")
    with atomic_path(job) as temporary:
        paths = {"checkpoint": str(checkpoint), "artifact": str(artifact), "result": str(result)}
        temporary.write_text(json.dumps({**settings, **paths}), encoding="utf-8")
    command = [sys.executable, str(Path(__file__).resolve()), str(job)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    job.unlink(missing_ok=True)
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        reason = lines[-1] if lines else "it said nothing"
        raise Vq4ditError(f"the calibration ended with code {ended.returncode}: {reason}")
    return json.loads(result.read_text(encoding="utf-8"))


def main() -> None:
    """Do one job."""
    import torch

    from vq4dit.calibrate.recipe import Recipe
    from vq4dit.calibrate.run import calibrate

    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in job["recipe"].items()}
    start = time.perf_counter()
    summary = calibrate(
        job["checkpoint"],
        job["artifact"],
        bits=job["bits"],
        recipe=Recipe(**fields),
        seed=job["seed"],
    )
    seconds = {
        "cpu_seconds": round(time.process_time(), 1),
        "wall_seconds": round(time.perf_counter() - start, 1),
    }
    write_json(Path(job["result"]), {**summary.to_dict(), **seconds})


if __name__ == "__main__":
    main()
