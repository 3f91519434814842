"""Final distillation: codebooks and biases of the whole model, assignments fixed.

The student learns the teacher's outputs on the teacher's own trajectories. Only the few trained
numbers (about 1 % of the weights) need gradients and optimizer state. Source: knowledge
distillation on a diffusion trajectory, as VQ4DiT (arXiv 2408.17131) section 3 does per block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .dit import DiT
from .job import Job
from .layer import VQLinear
from .losses import relative_error
from .ratio_training import check_finite
from .training_state import load_optimizer_tensors, optimizer_tensors
from .trajectory import Trajectories, draw_batch

_WARMUP_STEPS = 20
_BETAS = (0.9, 0.95)

_REMEDY = (
    "go on with --resume and a recipe with smaller distill_lr, which keeps all blocks, or use "
    "another seed"
)


class Distiller:
    """Adam over codebooks and biases; its state can be saved and loaded between any two steps.

    `losses` are those of the steps done so far.
    """

    def __init__(self, student: DiT, trajectories: Trajectories, job: Job) -> None:
        """Prepare a student whose block linears are hard `VQLinear`s."""
        self.losses: list[float] = []
        self._student, self._trajectories = student, trajectories
        self._recipe, self._seed, self._compute = job.recipe, job.seed, job.compute
        student.requires_grad_(False)
        self.parameters: dict[str, Tensor] = {}
        for name, module in student.named_modules():
            if isinstance(module, VQLinear):
                self.parameters[f"{name}.codebook"] = module.codebook.requires_grad_(True)
                self.parameters[f"{name}.bias"] = module.bias.requires_grad_(True)
        self._optimizer = torch.optim.Adam(
            list(self.parameters.values()), lr=job.recipe.distill_lr, betas=_BETAS
        )

    @property
    def step(self) -> int:
        """Steps done so far."""
        return len(self.losses)

    def run(self) -> Iterator[float]:
        """Do the remaining steps; yields each step's relative output error."""
        while self.step < self._recipe.distill_steps:
            self.losses.append(self._one_step())
            yield self.losses[-1]

    def _one_step(self) -> float:
        """One Adam step on a batch that depends on seed and step number alone."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.distill_lr * self._schedule()
        batch = draw_batch(
            self._trajectories,
            self._recipe.distill_batch_size,
            null_label=self._student.config.null_label,
            null_share=self._recipe.null_share,
            seed=self._seed + self.step,
        ).to(self._compute.device)
        with self._compute.forward():
            output = self._student(batch.latent, batch.timestep, batch.label)
        loss = relative_error(output.float(), batch.output)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        check_finite(loss, "the distillation", _REMEDY)
        self._optimizer.step()
        return loss.item()

    def _schedule(self) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        warmup = min(1.0, (self.step + 1) / _WARMUP_STEPS)
        return warmup * 0.5 * (1 + math.cos(math.pi * self.step / self._recipe.distill_steps))

    def state(self) -> dict[str, Tensor]:
        """Parameters, Adam's moments and all losses so far as named tensors."""
        return {
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            **{f"value.{name}": value.detach() for name, value in self.parameters.items()},
            **optimizer_tensors(self._optimizer, self.parameters),
        }

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a saved state."""
        self.losses = tensors["losses"].tolist()
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"value.{name}"])
        load_optimizer_tensors(self._optimizer, self.parameters, tensors)
