"""Train the demonstration model: metric classifier, VAE, latent DiT, all on Fashion-MNIST.

Writes the very files that the package carries: dit.safetensors, config.json, vae/,
classifier.safetensors, reference_features.safetensors (and latents.safetensors, which stays
behind). The stages build on each other in this order and can be run one at a time; on two CPU
cores they take about 4, 13 and 60 minutes. The data: Debian's package dataset-fashion-mnist.

    python -m vq4dit.demo.train --data /usr/share/datasets/fashion-mnist -o out/train
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from .train_classifier import ClassifierTraining, train_classifier
from .train_dit import DitTraining, train_dit
from .train_vae import VaeTraining, train_vae

STAGES = ("classifier", "vae", "dit")


def main(argv: list[str] | None = None) -> None:
    """Run the chosen stages."""
    args = _parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    args.output.mkdir(parents=True, exist_ok=True)
    if "classifier" in args.stages:
        settings = ClassifierTraining(steps=args.classifier_steps, seed=args.seed)
        train_classifier(args.data, args.output, settings)
    if "vae" in args.stages:
        train_vae(args.data, args.output, VaeTraining(steps=args.vae_steps, seed=args.seed))
    if "dit" in args.stages:
        settings_dit = DitTraining(
            steps=args.dit_steps, processes=args.processes, seed=args.seed, depth=args.depth
        )
        train_dit(args.data, args.output, settings_dit)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vq4dit.demo.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the four idx.gz files"
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, metavar="STAGE")
    parser.add_argument("--classifier-steps", type=int, default=ClassifierTraining.steps)
    parser.add_argument("--vae-steps", type=int, default=VaeTraining.steps)
    parser.add_argument("--dit-steps", type=int, default=DitTraining.steps)
    parser.add_argument("--processes", type=int, default=DitTraining.processes, help="for the DiT")
    parser.add_argument("--depth", type=int, default=DitTraining.depth, help="blocks of the DiT")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
