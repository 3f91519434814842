"""Check an engine directory: manifest, hashes, self-test, and parity with a file of weights.

The self-test runs one sampling step that the build machine ran too; on target cpu with exact and
with fast kernels. --against runs the same step in torch from the given artifact or checkpoint. The
exit code is 1 if any check fails.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vq4dit.engines.manifest import Manifest

    Tensors = dict[str, NDArray[Any]]

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vq4dit verify`."""
    parser.add_argument("engine", type=Path, help="engine directory")
    parser.add_argument(
        "--against", type=Path, help="artifact or checkpoint to compare one step with (needs torch)"
    )
    parser.add_argument("--threads", type=int, help="threads of one step")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run all checks; returns each with its error and limit, and whether all passed."""
    from vq4dit.engines.manifest import load_manifest, verify_files
    from vq4dit.runtime.selftest import load_selftest

    manifest = load_manifest(args.engine)
    verify_files(args.engine, manifest)
    _log.info("files: sizes and SHA-256 of all %d are right", len(manifest.files))
    tensors = load_selftest(args.engine / manifest.files["selftest"].name, manifest)
    accuracies = ("exact", "fast") if manifest.form == "function" else ("exact",)
    checks = [_selftest(args, manifest, tensors, accuracy) for accuracy in accuracies]
    if args.against is not None:
        checks.append(_parity(args.against, manifest, tensors))
    ok = all(check["ok"] for check in checks)
    if not args.json and not args.quiet:
        for check in checks:
            print(_line(check))
        print(f"{args.engine}: {'ok' if ok else 'FAILED'}")
    return {"ok": ok, "engine": str(args.engine), "target": manifest.target, "checks": checks}


def _selftest(
    args: argparse.Namespace, manifest: Manifest, tensors: Tensors, accuracy: str
) -> dict[str, Any]:
    """The stored step with exact or fast kernels."""
    from vq4dit.runtime.pipeline import Pipeline
    from vq4dit.runtime.selftest import selftest_limit

    with Pipeline(args.engine, accuracy=accuracy, threads=args.threads) as pipeline:
        result = pipeline.selftest(tensors)
    return {
        "name": f"self-test, {accuracy}",
        "ok": result.is_within(accuracy, manifest.compute_dtype),
        "latent_out_error": result.latent_out,
        "x_start_error": result.x_start,
        "limit": selftest_limit(accuracy, manifest.compute_dtype),
        "image_levels": result.image_levels,
    }


def _parity(path: Path, manifest: Manifest, tensors: Tensors) -> dict[str, Any]:
    """The stored outputs against the same step in torch from the given weights."""
    from vq4dit.calibrate.source import open_weights
    from vq4dit.engines.parity import reference_step
    from vq4dit.runtime.selftest import LIMITS, relative_error, stored_inputs

    source = open_weights(path)
    if source.sha256 != manifest.source_sha256:
        _log.warning("%s is not the file that the engine was built from", path)
    latent_out, x_start = reference_step(source, manifest, stored_inputs(tensors))
    errors = [
        relative_error(tensors["latent_out"], latent_out),
        relative_error(tensors["x_start"], x_start),
    ]
    return {
        "name": f"parity with {path}",
        "ok": all(error <= LIMITS["exact"] for error in errors),
        "latent_out_error": errors[0],
        "x_start_error": errors[1],
        "limit": LIMITS["exact"],
        "image_levels": None,
    }


def _line(check: dict[str, Any]) -> str:
    image = check["image_levels"]
    return (
        f"{'ok    ' if check['ok'] else 'FAILED'} {check['name']}: relative error of latent_out "
        f"{check['latent_out_error']:.2e}, of x_start {check['x_start_error']:.2e} "
        f"(limit {check['limit']:.0e})"
        + ("" if image is None else f", picture within {image} levels of 255")
    )
