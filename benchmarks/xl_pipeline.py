"""DiT-XL/2 through the whole pipeline on a CPU: 256 and 512, decoders whole, by tiles and tiny.

Real sizes and layout, random weights: no picture comes out of it, but every part runs as it would
with the public weights. The quantized artifact is that of `xl_scale.py` (latents of 32 x 32); for
512 x 512 its position table is computed for latents of 64 x 64, as the public 512 model has it. The
VAEs are random ones with the public sizes: Stable Diffusion's (decoder of 49 M parameters) and
TAESD's.

    python benchmarks/xl_pipeline.py --work FOLDER [--steps 2] [--threads 2] [--parity]

FOLDER holds kmeans.vq.safetensors of `xl_scale.py`, or gets it by `vq4dit calibrate --method
kmeans`. Every engine runs in a process of its own. `--parity` also compares one step at both sizes
with torch (4 GB of memory). Writes benchmarks/results/xl_pipeline.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

from vq4dit.json_file import write_json

RESULTS = Path(__file__).parent / "results" / "xl_pipeline.json"
ARTIFACT = "kmeans.vq.safetensors"

#: Engine -> size of its latents, its VAE, tile size.
ENGINES: dict[str, tuple[int, str, int | None]] = {
    "xl-256": (32, "kl", None),
    "xl-512": (64, "kl", None),
    "xl-512-tiles": (64, "kl", 32),
    "xl-512-tiny": (64, "tiny", None),
}


class AtLatentSize:
    """A weight source whose model is for latents of another size; all weights stay the same."""

    def __init__(self, source: Any, size: int) -> None:
        self._source = source
        self.config = replace(source.config, input_size=size)
        self.label_names = source.label_names
        self.latent_scaling_factor = source.latent_scaling_factor
        self.sha256 = source.sha256
        self.quantized_layer = source.quantized_layer

    @cached_property
    def _positions(self) -> np.ndarray:
        from vq4dit.calibrate.position_table import sincos_position_table

        return sincos_position_table(self.config).numpy()

    def tensor(self, name: str) -> np.ndarray:
        """A dense tensor; the position table is that of this size."""
        return self._positions if name == "pos_embed" else self._source.tensor(name)


def open_source(artifact: Path, size: int) -> Any:
    """The artifact as weights of a model for latents of this size."""
    from vq4dit.calibrate.source import open_weights

    source = open_weights(artifact)
    return source if source.config.input_size == size else AtLatentSize(source, size)


def make_vaes(folder: Path) -> None:
    """Random VAEs of the public sizes, as diffusers saves them."""
    import torch
    from diffusers import AutoencoderKL, AutoencoderTiny

    torch.manual_seed(0)
    if not (folder / "kl").is_dir():
        widths = (128, 256, 512, 512)
        AutoencoderKL(
            block_out_channels=widths, layers_per_block=2, norm_num_groups=32,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ).save_pretrained(folder / "kl")  # fmt: skip
    if not (folder / "tiny").is_dir():
        AutoencoderTiny().save_pretrained(folder / "tiny")


def build(name: str, work: Path) -> dict[str, Any]:
    """Build one engine if it is not there."""
    from vq4dit.engines.build import build_engine

    size, vae, tile = ENGINES[name]
    out = work / "engines" / name
    if out.is_dir():
        return {}
    start = time.perf_counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    build_engine(
        open_source(work / ARTIFACT, size), out, target="cpu", vae=work / "vaes" / vae,
        vae_tile=tile,
    )  # fmt: skip
    return {"build_seconds": round(time.perf_counter() - start, 1), "peak_rss_bytes": _peak()}


def draw(name: str, work: Path, steps: int, threads: int) -> dict[str, Any]:
    """Load, sample, decode; memory is told for the process as it grows."""
    from vq4dit.runtime.pipeline import Pipeline

    start = time.perf_counter()
    with Pipeline(work / "engines" / name, threads=threads, verify=False, low_memory=True) as p:
        loaded = time.perf_counter()
        memory = {"load": _peak()}
        latents = p([207], steps=steps, seed=1, output="latent")
        sampled = time.perf_counter()
        memory["sample"] = _peak()
        images = p.decode(latents)
        decoded = time.perf_counter()
        memory["decode"] = _peak()
        shape = p.manifest.image_shape
    np.save(work / f"{name}.npy", images)
    return {
        "engine": name,
        "steps": steps,
        "threads": threads,
        "load_seconds": round(loaded - start, 2),
        "seconds_per_step": round((sampled - loaded) / steps, 2),
        "decode_seconds": round(decoded - sampled, 2),
        "peak_rss_bytes": memory,
        "image_shape": list(shape),
        "levels_used": int(np.unique(images).size),
        "engine_bytes": sum(f.stat().st_size for f in (work / "engines" / name).iterdir()),
    }


def parity(name: str, work: Path) -> dict[str, Any]:
    """One step against torch with the decoded weights."""
    from vq4dit.engines.manifest import load_manifest
    from vq4dit.engines.parity import reference_step
    from vq4dit.runtime.pipeline import Pipeline
    from vq4dit.runtime.selftest import load_selftest, relative_error, stored_inputs

    directory = work / "engines" / name
    manifest = load_manifest(directory)
    tensors = load_selftest(directory / "selftest.safetensors", manifest)
    wanted = reference_step(
        open_source(work / ARTIFACT, ENGINES[name][0]), manifest, stored_inputs(tensors)
    )
    errors: dict[str, Any] = {
        "function_bodies": [
            relative_error(tensors[key], value)
            for key, value in zip(("latent_out", "x_start"), wanted, strict=True)
        ]
    }
    for accuracy in ("fast", "exact"):
        with Pipeline(directory, accuracy=accuracy, low_memory=True) as pipeline:
            found = pipeline._run_step(stored_inputs(tensors))
        errors[accuracy] = [relative_error(f, w) for f, w in zip(found, wanted, strict=True)]
    return {"step_relative_error_of_latent_out_and_x_start": errors}


def tile_differences(work: Path) -> dict[str, Any]:
    """Tiled against whole picture, in levels of 255; steps across tile edges against all steps."""
    from vq4dit.runtime.tiled_decoder import tile_starts

    whole, tiled = (
        np.load(work / f"{name}.npy").astype(np.float64) for name in ("xl-512", "xl-512-tiles")
    )
    factor = whole.shape[1] // 64
    edges = {n * factor for s in tile_starts(64, 32) for n in (s, s + 32)} - {0, 64 * factor}
    columns = sorted(edges)
    found: dict[str, Any] = {
        "mean_levels": float(np.abs(whole - tiled).mean()),
        "max_levels": float(np.abs(whole - tiled).max()),
    }
    for name, picture in (("whole", whole), ("tiled", tiled)):
        steps = np.abs(np.diff(picture, axis=2)).mean(axis=(0, 1, 3))  # between column x and x + 1
        found[f"step_across_edges_over_mean_step_{name}"] = float(
            steps[[x - 1 for x in columns]].mean() / steps.mean()
        )
    return found


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Make what is missing, run every engine, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--artifact", type=Path, help="default FOLDER/kmeans.vq.safetensors")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parity", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.artifact is not None and not (args.work / ARTIFACT).exists():
        (args.work / ARTIFACT).symlink_to(args.artifact.resolve())
    if args.child:
        what, name = args.child
        made = {
            "vaes": lambda: make_vaes(args.work / "vaes"),
            "build": lambda: build(name, args.work),
            "draw": lambda: draw(name, args.work, args.steps, args.threads),
            "parity": lambda: parity(name, args.work),
        }[what]()
        print(json.dumps(made))
        return

    def child(what: str, name: str = "all") -> dict[str, Any]:
        command = [sys.executable, __file__, "--work", str(args.work), "--child", what, name]
        command += ["--steps", str(args.steps), "--threads", str(args.threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1]) or {}

    child("vaes")
    rows = []
    for name in ENGINES:
        row = child("build", name)
        row = {"build": row} if row else {}
        row |= child("draw", name)
        if args.parity and name in ("xl-256", "xl-512"):
            row |= child("parity", name)
        rows.append(row)
        print(json.dumps(row), flush=True)
        write_json(RESULTS, {"machine": machine(("onnxruntime",)), "rows": rows})
    document = {
        "machine": machine(("onnxruntime",)),
        "rows": rows,
        "tiles": tile_differences(args.work),
    }
    write_json(RESULTS, document)
    print(json.dumps(document["tiles"]))


if __name__ == "__main__":
    main()
