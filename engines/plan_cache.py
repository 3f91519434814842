"""Plans that were built before, found again by everything that they depend on.

In the cache folder each plan is KEY.plan with its SHA-256 in KEY.sha256; a plan that does not match
is thrown away. TensorRT's timing caches are there too. Deleting the folder costs only time.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from vq4dit.atomic_file import atomic_path
from vq4dit.cache_folder import cache_folder
from vq4dit.engine_files import hash_file

from .plan_job import PlanJob

_log = logging.getLogger(__name__)

#: The oldest plans go when the folder grows above this.
MAX_CACHE_BYTES = 16 << 30


def plan_key(job: PlanJob, *, environment: dict[str, str]) -> str:
    """64 hexadecimal digits that change with whatever the plan depends on.

    Args:
        job: its paths do not count, the bytes of the ONNX model and its data do.
        environment: versions and the GPU that it is built with.
    """
    onnx = Path(job.onnx_path)
    data = onnx.with_name(f"{onnx.name}.data")
    parts = {
        "job": {k: v for k, v in vars(_without_paths(job)).items()},
        "environment": environment,
        "onnx": hash_file(onnx),
        "data": hash_file(data) if data.is_file() else "",
        "library": hash_file(Path(job.plugin_library)) if job.plugin_library else "",
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def fetch_plan(key: str, plan_path: Path) -> bool:
    """Copy a kept plan to plan_path; False if there is none or it is damaged."""
    kept, digest = _paths(key)
    if not kept.is_file() or not digest.is_file():
        return False
    if hash_file(kept) != digest.read_text(encoding="ascii", errors="replace").strip():
        _log.warning("%s: the kept plan is damaged; building it again", kept)
        _forget(kept)
        return False
    shutil.copyfile(kept, plan_path)
    os.utime(kept)
    return True


def keep_plan(key: str, plan_path: Path) -> None:
    """Keep a copy of a plan; a cache that cannot be written is told, not raised."""
    kept, digest = _paths(key)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        digest.unlink(missing_ok=True)
        with atomic_path(kept) as temporary:
            shutil.copyfile(plan_path, temporary)
        with atomic_path(digest) as temporary:
            temporary.write_text(hash_file(plan_path), encoding="ascii")
        _shrink(kept.parent)
    except OSError as error:
        _log.warning("%s: the plan is not kept for another time (%s)", kept.parent, error)


def timing_cache_path(environment: dict[str, str]) -> Path:
    """File of TensorRT's kernel timings for this GPU and these versions."""
    name = sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / f"timing-{name}.cache"


def _without_paths(job: PlanJob) -> PlanJob:
    return replace(job, onnx_path="", plan_path="", timing_cache=None, plugin_library=None)


def _paths(key: str) -> tuple[Path, Path]:
    kept = cache_folder() / f"{key}.plan"
    return kept, kept.with_suffix(".sha256")


def _forget(kept: Path) -> None:
    kept.with_suffix(".sha256").unlink(missing_ok=True)
    kept.unlink(missing_ok=True)


def _shrink(folder: Path) -> None:
    """Delete the plans that were used longest ago until MAX_CACHE_BYTES are left."""
    plans = sorted(folder.glob("*.plan"), key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in plans)
    while plans and total > MAX_CACHE_BYTES:
        oldest = plans.pop(0)
        total -= oldest.stat().st_size
        _forget(oldest)
