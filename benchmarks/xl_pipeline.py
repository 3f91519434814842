"""DiT-XL/2 through the whole pipeline on a CPU, at 256 and 512; decoders whole, by tiles and tiny.

Real sizes and layout, random weights: no picture comes out of it, but every part runs as it would
with the public weights. The quantized artifact is that of `xl_scale.py` (latents of 32 x 32); for
512 x 512 its position table is computed for latents of 64 x 64, as the public 512 model has it. The
VAEs are random ones with the public sizes: Stable Diffusion's (decoder of 49 M parameters) and
TAESD's. Latents of 64 x 64 are decoded three ways: whole, in tiles of 32 x 32, and by TAESD.

    python benchmarks/xl_pipeline.py --work FOLDER [--steps 2] [--threads 2] [--parity]
                                     [--only engines | decoders]

FOLDER holds kmeans.vq.safetensors of `xl_scale.py`; engines that are there are taken. Every engine
and every decoder runs in a process of its own. `--parity` also compares one step at both sizes with
torch (5 GB of memory). Writes benchmarks/results/xl_pipeline.json and the section in RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from calibration_study.report import replace_section
from machine import machine

from vq4dit.json_file import write_json

RESULTS = Path(__file__).parent / "results" / "xl_pipeline.json"
MARKDOWN = Path(__file__).parent / "RESULTS.md"
ARTIFACT = "kmeans.vq.safetensors"

#: Engine -> size of its latents.
ENGINES = {"xl-256": 32, "xl-512": 64}

#: Decoder of 64 x 64 latents -> VAE, tile size.
DECODERS: dict[str, tuple[str, int | None]] = {
    "AutoencoderKL, whole": ("kl", None),
    "AutoencoderKL, tiles of 32": ("kl", 32),
    "AutoencoderTiny, whole": ("tiny", None),
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

    out = work / "engines" / name
    if out.is_dir():
        return {}
    start = time.perf_counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    source = open_source(work / ARTIFACT, ENGINES[name])
    build_engine(source, out, target="cpu", vae=work / "vaes" / "kl")
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
        open_source(work / ARTIFACT, ENGINES[name]), manifest, stored_inputs(tensors)
    )
    errors: dict[str, Any] = {
        "function_bodies": [
            relative_error(tensors[key], value)
            for key, value in zip(("latent_out", "x_start"), wanted, strict=True)
        ]
    }
    for accuracy in ("fast", "exact"):
        with Pipeline(directory, accuracy=accuracy, low_memory=True) as pipeline:
            found = pipeline.sessions.run_step(stored_inputs(tensors))
        errors[accuracy] = [relative_error(f, w) for f, w in zip(found, wanted, strict=True)]
    return {"step_relative_error_of_latent_out_and_x_start": errors}


def decode(name: str, work: Path, threads: int) -> dict[str, Any]:
    """Decode seeded latents, 64 x 64; only this decoder is in the process."""
    from vq4dit.runtime.noise import INITIAL_STEP, gaussian_noise
    from vq4dit.runtime.ort_session import OrtDecoderSession
    from vq4dit.runtime.tiled_decoder import TiledDecoder

    vae, tile = DECODERS[name]
    size = ENGINES["xl-512"]
    latents = gaussian_noise(0, np.arange(1), INITIAL_STEP, (4, size, size))
    before = _peak()
    start = time.perf_counter()
    session: Any = OrtDecoderSession(_decoder_path(name, work), threads=threads)
    if tile is not None:
        session = TiledDecoder(session, latent_size=size, tile_size=tile)
    loaded = time.perf_counter()
    pictures = session.decode(latents)
    done = time.perf_counter()
    np.save(work / f"decoded.{vae}.{tile or size}.npy", pictures)
    return {
        "decoder": name,
        "threads": threads,
        "load_seconds": round(loaded - start, 2),
        "decode_seconds": round(done - loaded, 2),
        "peak_rss_bytes": _peak(),
        "rss_before_bytes": before,
        "image_shape": list(pictures.shape[1:]),
    }


def export_decoder(name: str, work: Path) -> dict[str, Any]:
    """Write the decoder's model."""
    from vq4dit.export.decoder import build_decoder_model

    vae, tile = DECODERS[name]
    folder = _decoder_path(name, work).parent
    build_decoder_model(work / "vaes" / vae, folder, latent_size=tile or 64, scaling_factor=0.18215)
    return {}


def _decoder_path(name: str, work: Path) -> Path:
    vae, tile = DECODERS[name]
    return work / "decoders" / f"{vae}-{tile or 64}" / "decoder.onnx"


def tile_differences(work: Path) -> dict[str, float]:
    """Tiled against whole picture in levels of 255; steps across tile edges against all steps."""
    from vq4dit.runtime.tiled_decoder import tile_starts

    whole, tiled = (
        127.5 * np.clip(np.load(work / f"decoded.kl.{size}.npy").astype(np.float64), -1, 1)
        for size in (64, 32)
    )
    factor = whole.shape[-1] // 64
    edges = {n * factor for s in tile_starts(64, 32) for n in (s, s + 32)} - {0, 64 * factor}
    found = {
        "mean_levels": float(np.abs(whole - tiled).mean()),
        "max_levels": float(np.abs(whole - tiled).max()),
        "standard_deviation_of_whole_in_levels": float(whole.std()),
    }
    for name, picture in (("whole", whole), ("tiled", tiled)):
        steps = np.abs(np.diff(picture, axis=-1)).mean(axis=(0, 1, 2))  # from column x to x + 1
        at_edges = steps[[x - 1 for x in sorted(edges)]].mean()
        found[f"step_across_tile_edges_over_mean_step_{name}"] = float(at_edges / steps.mean())
    return found


def render(document: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    mib = 2**20
    lines = [
        "## DiT-XL/2 through the whole pipeline on a CPU (`xl_pipeline.py`)",
        "",
        "Random weights in the real layout, 2 bits, guidance, batch 1, `low_memory`; a random VAE "
        "with the",
        "sizes of Stable Diffusion's. Other work ran beside it: look at memory and errors, not at "
        "seconds.",
        "",
        "Command: `python benchmarks/xl_pipeline.py --work FOLDER --parity`. Machine: "
        f"{document['machine']['processor']}, load {document['machine']['load_average']:.0f}.",
        "",
        "| engine | picture | s per step | s to decode | peak RSS: load | sampling | decoding | "
        "step against torch: exact | fast |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in document["rows"]:
        memory = [f"{row['peak_rss_bytes'][k] / mib:.0f} MiB" for k in ("load", "sample", "decode")]
        errors = row.get("step_relative_error_of_latent_out_and_x_start", {})
        told = [f"{max(errors[k]):.1e}" if k in errors else "" for k in ("exact", "fast")]
        shape = " x ".join(map(str, row["image_shape"][1:]))
        lines.append(
            f"| {row['engine']} | {shape} | {row['seconds_per_step']} | {row['decode_seconds']} | "
            + " | ".join(memory + told)
            + " |"
        )
    lines += [
        "",
        "Decoders alone, 64 x 64 latents to 512 x 512:",
        "",
        "| decoder | s | peak RSS | before loading |",
        "|---|---:|---:|---:|",
        *(
            f"| {row['decoder']} | {row['decode_seconds']} | {row['peak_rss_bytes'] / mib:.0f} MiB "
            f"| {row['rss_before_bytes'] / mib:.0f} MiB |"
            for row in document["decoders"]
        ),
    ]
    tiles = document["tiles"]
    lines += [
        "",
        f"Tiles against whole: {tiles['mean_levels']:.2f} levels of 255 apart in the mean, "
        f"{tiles['max_levels']:.1f} at most; the",
        f"picture's standard deviation is {tiles['standard_deviation_of_whole_in_levels']:.1f} "
        "levels. The mean step from column to column across edges",
        "of tiles is "
        f"{tiles['step_across_tile_edges_over_mean_step_tiled']:.3f} of the mean step elsewhere, "
        "in the whole picture at the same places "
        f"{tiles['step_across_tile_edges_over_mean_step_whole']:.3f}.",
    ]
    return "\n".join(lines)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _engine_row(child: Callable[..., Any], name: str, *, parity: bool) -> dict[str, Any]:
    built = child("build", name)
    row = {"build": built} if built else {}
    row |= child("draw", name)
    return row | child("parity", name) if parity else row


def main() -> None:
    """Make what is missing, run every engine, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parity", action="store_true")
    parser.add_argument("--only", choices=("engines", "decoders"), help="keep the other figures")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.child:
        what, name = args.child
        made = {
            "vaes": lambda: make_vaes(args.work / "vaes"),
            "build": lambda: build(name, args.work),
            "draw": lambda: draw(name, args.work, args.steps, args.threads),
            "parity": lambda: parity(name, args.work),
            "export-decoder": lambda: export_decoder(name, args.work),
            "decode": lambda: decode(name, args.work, args.threads),
        }[what]()
        print(json.dumps(made))
        return

    def child(what: str, name: str = "all") -> dict[str, Any]:
        command = [sys.executable, __file__, "--work", str(args.work), "--child", what, name]
        command += ["--steps", str(args.steps), "--threads", str(args.threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1]) or {}

    child("vaes")
    document: dict[str, Any] = {"rows": [], "decoders": []}
    if args.only is not None and RESULTS.exists():
        document |= json.loads(RESULTS.read_text())
    if args.only != "decoders":
        document["rows"] = [_engine_row(child, name, parity=args.parity) for name in ENGINES]
    if args.only != "engines":
        document["decoders"] = []
        for name in DECODERS:
            child("export-decoder", name)
            document["decoders"].append(child("decode", name))
    document["tiles"] = tile_differences(args.work)
    document["machine"] = machine(("onnxruntime",))
    print(json.dumps(document))
    write_json(RESULTS, document)
    replace_section(MARKDOWN, "xl-pipeline", render(document))


if __name__ == "__main__":
    main()
