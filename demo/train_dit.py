"""Stage 3 of the demonstration model: the DiT on latents, in one or more processes.

As Peebles & Xie 2023 (arXiv 2212.09748) train it: eps prediction with a learned variance, label
dropout for classifier-free guidance, an exponential moving average of the weights, which is what is
kept. Runs the processes with synchronous data parallelism over gloo.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors import safe_open
from torch import Tensor, nn

from vq4dit.calibrate.artifact import write_safetensors
from vq4dit.calibrate.dit import DiT
from vq4dit.model_config import ModelConfig

from . import CHECKPOINT_NAME, CONFIG_NAME, VAE_NAME
from .data import load_split
from .diffusion_loss import DiffusionLoss
from .initial_weights import set_initial_weights
from .schedules import set_learning_rate, shuffled_batches, warm_up_then_cosine
from .train_vae import LATENTS_NAME

logger = logging.getLogger(__name__)

#: Names of Fashion-MNIST's classes, in the order of its labels.
CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DitTraining:
    """Settings of this stage; the packaged weights come of the defaults.

    `batch_size` is one process's; `drop_label` the share of labels replaced by the null label.
    """

    steps: int = 6633
    processes: int = 2
    batch_size: int = 32
    learning_rate: float = 7e-4
    warm_up: int = 200
    hold: float = 0.3
    floor: float = 0.01
    drop_label: float = 0.1
    max_gradient_norm: float = 1.0
    average_decay: float = 0.9995
    depth: int = 8
    hidden_size: int = 256
    seed: int = 0

    def model_config(self) -> ModelConfig:
        """Sizes of the model: latents 4x8x8 in patches of 2, ten classes."""
        return ModelConfig(
            input_size=8,
            patch_size=2,
            in_channels=4,
            hidden_size=self.hidden_size,
            depth=self.depth,
            num_heads=self.hidden_size // 64,
            num_classes=len(CLASS_NAMES),
        )


def train_dit(data: Path, output: Path, settings: DitTraining) -> None:
    """Train, then write dit.safetensors (averaged weights, float16) and config.json.

    Args:
        data: folder of the four idx.gz files (for the labels).
        output: folder with latents.safetensors; gets the two files.
        settings: length, rates and processes of the training.
    """
    if settings.processes == 1:
        _train(0, data, output, settings, None)
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments = (data, output, settings, Path(folder) / "rendezvous")
        mp.spawn(_train, args=arguments, nprocs=settings.processes)


def _train(
    rank: int, data: Path, output: Path, settings: DitTraining, rendezvous: Path | None
) -> None:
    """What one process does; process 0 writes the result."""
    if rendezvous is not None:
        logging.basicConfig(format="%(message)s", level=logging.INFO)
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo",
            init_method=rendezvous.absolute().as_uri(),
            rank=rank,
            world_size=settings.processes,
        )
    torch.manual_seed(settings.seed)
    model = DiT(settings.model_config())
    set_initial_weights(model)
    average = WeightAverage(model, settings.average_decay)
    latents, factor = _read_latents(output)
    labels = load_split(data, "train")[1]
    torch.manual_seed(settings.seed + 100 + rank)  # equal weights, but each process its own batches
    _loop(model, average, Samples(latents, labels, factor, settings), settings, rank)
    if rank == 0:
        _write(output, settings, average.state_dict(model), factor)
    if rendezvous is not None:
        dist.barrier()  # who leaves first would take the rendezvous away from the others
        dist.destroy_process_group()


def _loop(
    model: DiT, average: WeightAverage, samples: Samples, settings: DitTraining, rank: int
) -> None:
    """The optimization steps."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradient = _flat_gradient(parameters)
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0, fused=True
    )
    loss_of = DiffusionLoss()
    for step in range(settings.steps):
        fraction = warm_up_then_cosine(
            step, settings.steps,
            warm_up=settings.warm_up, hold=settings.hold, floor=settings.floor,
        )  # fmt: skip
        set_learning_rate(optimizer, settings.learning_rate * fraction)
        gradient.zero_()
        loss = loss_of(model, *next(samples))
        loss.backward()
        if settings.processes > 1:
            dist.all_reduce(gradient)
            gradient /= settings.processes
        gradient *= min(1.0, settings.max_gradient_norm / (gradient.norm().item() + 1e-12))
        optimizer.step()
        average.update(model, step)
        if rank == 0 and (step + 1) % 100 == 0:
            logger.info("dit: step %d of %d, loss %.4f", step + 1, settings.steps, loss)


class Samples(Iterator[tuple[Tensor, Tensor]]):
    """Endless training batches: latents drawn from their posteriors, labels with dropout."""

    def __init__(
        self, latents: dict[str, Tensor], labels: Tensor, factor: float, settings: DitTraining
    ) -> None:
        self._latents, self._labels, self._factor = latents, labels, factor
        self._settings = settings
        self._batches = shuffled_batches(len(labels), settings.batch_size)

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Latents (N, 4, 8, 8) and labels (N,)."""
        batch = next(self._batches)
        mean, log_variance = (self._latents[k][batch].float() for k in ("mean", "log_variance"))
        latent = (mean + torch.randn_like(mean) * (log_variance / 2).exp()) * self._factor
        dropped = torch.rand(len(batch)) < self._settings.drop_label
        return latent, torch.where(dropped, len(CLASS_NAMES), self._labels[batch])


class WeightAverage:
    """Exponential moving average of the trained parameters, quick at first, then slow."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._values = {
            n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad
        }

    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the present weights, after step `step` (from 0)."""
        decay = min(self._decay, (step + 2) / (step + 11))
        for name, parameter in model.named_parameters():
            if name in self._values:
                self._values[name].lerp_(parameter.detach(), 1 - decay)

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state dict with the averaged parameters in place."""
        return {**model.state_dict(), **self._values}


def _flat_gradient(parameters: list[nn.Parameter]) -> Tensor:
    """One buffer behind all gradients, so that they are reduced and scaled in one piece."""
    buffer = torch.zeros(sum(p.numel() for p in parameters))
    start = 0
    for parameter in parameters:
        parameter.grad = buffer[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return buffer


def _read_latents(output: Path) -> tuple[dict[str, Tensor], float]:
    """Posteriors of the training set and the scaling factor, from the stage before."""
    with safe_open(output / LATENTS_NAME, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, float(
            file.metadata()["scaling_factor"]
        )


def _write(
    output: Path, settings: DitTraining, tensors: dict[str, Tensor], factor: float
) -> None:  # fmt: skip
    """Write the checkpoint and config.json."""
    config = settings.model_config().to_dict()
    metadata = {
        "config": json.dumps(config),
        "steps": str(settings.steps),
        "scaling_factor": repr(factor),
        "class_names": json.dumps(CLASS_NAMES),
    }
    half = {name: value.half().contiguous().numpy() for name, value in tensors.items()}
    write_safetensors(output / CHECKPOINT_NAME, half, metadata)
    values = {
        "model": config,
        "vae": VAE_NAME,
        "latent_scaling_factor": factor,
        "class_names": CLASS_NAMES,
        "dataset": "Fashion-MNIST (MIT licence, Zalando SE)",
        "training_steps": settings.steps,
    }
    (output / CONFIG_NAME).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    logger.info("dit: %d steps, wrote %s", settings.steps, output / CHECKPOINT_NAME)
