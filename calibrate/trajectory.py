"""Zero-data calibration inputs: the teacher's own sampling trajectories.

Starts from noise and follows the full-precision model, so that no data set is needed and the
quantized model is calibrated exactly where it will be used. Source: VQ4DiT (arXiv 2408.17131)
section 3 (zero-data block-wise calibration; "FP model's previous output used as input").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vq4dit.model_config import ModelConfig

from .dit import DiT
from .streamed import StreamedDiT

#: Training schedule of the public DiTs: linear betas (Ho et al. 2020), 1000 timesteps.
NUM_TRAIN_TIMESTEPS = 1000
BETAS = np.linspace(1e-4, 0.02, NUM_TRAIN_TIMESTEPS, dtype=np.float64)
ALPHAS_CUMPROD = np.cumprod(1 - BETAS)


@dataclass(frozen=True, kw_only=True)
class Starts:
    """Where N trajectories begin: latent (N, C, H, W) of noise, labels (N,), guidance (N,)."""

    latent: Tensor
    labels: Tensor
    guidance: Tensor


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """Points of N trajectories at S timesteps, and what the teacher said there; on the CPU.

    latents: (S, N, C, H, W); timesteps: (S,) descending; labels: (N,) int64, guidance: (N,);
    outputs and null_outputs: (S, N, out_channels, H, W), the teacher's output for the label and for
    the null label.
    """

    latents: Tensor
    timesteps: Tensor
    labels: Tensor
    guidance: Tensor
    outputs: Tensor
    null_outputs: Tensor

    @property
    def num_points(self) -> int:
        """S * N."""
        return self.latents.shape[0] * self.latents.shape[1]


@torch.no_grad()
def sample_trajectories(
    teacher: DiT | StreamedDiT,
    *,
    num_samples: int,
    num_steps: int,
    guidance_range: tuple[float, float],
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Trajectories:
    """Follow the teacher by DDIM with classifier-free guidance, from noise to x_0.

    Args:
        teacher: full-precision model.
        num_samples: N trajectories, labels drawn uniformly.
        num_steps: S, timesteps evenly spaced over 0..999, both ends included.
        guidance_range: guidance weight of a trajectory is uniform in this range.
        seed: of noise, labels and guidance weights.
        progress: called with the number of finished steps.
    Returns:
        All points visited.
    """
    config = teacher.config
    starts = draw_starts(config, num_samples, guidance_range, seed)
    latent, labels = starts.latent, starts.labels
    null = torch.full_like(labels, config.null_label)
    steps = spaced_timesteps(num_steps)
    latents, outputs, null_outputs = [], [], []
    for i, t in enumerate(steps):
        timestep = torch.full((2 * num_samples,), float(t))
        both = teacher(latent.repeat(2, 1, 1, 1), timestep, torch.cat([labels, null]))
        output, null_output = both.chunk(2)
        latents.append(latent)
        outputs.append(output)
        null_outputs.append(null_output)
        next_t = steps[i + 1] if i + 1 < num_steps else None
        latent = guided_step(latent, output, null_output, starts.guidance, t, next_t)
        progress(i + 1)
    return Trajectories(
        latents=torch.stack(latents),
        timesteps=torch.tensor(steps),
        labels=labels,
        guidance=starts.guidance,
        outputs=torch.stack(outputs),
        null_outputs=torch.stack(null_outputs),
    )


def spaced_timesteps(num_steps: int) -> list[int]:
    """Timesteps evenly spaced over 0..999, both ends included, descending."""
    spaced = np.linspace(0, NUM_TRAIN_TIMESTEPS - 1, num_steps).round().astype(int)
    return [int(t) for t in spaced[::-1]]


def draw_starts(
    config: ModelConfig, num_samples: int, guidance_range: tuple[float, float], seed: int
) -> Starts:
    """Noise, labels drawn uniformly, guidance weights uniform in the range; all by the seed."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_samples, config.in_channels, config.input_size, config.input_size)
    latent = torch.randn(shape, generator=generator)
    labels = torch.randint(config.num_classes, (num_samples,), generator=generator)
    low, high = guidance_range
    guidance = low + (high - low) * torch.rand(num_samples, generator=generator)
    return Starts(latent=latent, labels=labels, guidance=guidance)


def guided_step(
    latent: Tensor,
    output: Tensor,
    null_output: Tensor,
    guidance: Tensor,
    timestep: int,
    next_timestep: int | None,
) -> Tensor:
    """One DDIM step with classifier-free guidance on all channels, to x_0 where there is no next.

    Args:
        latent: (N, C, H, W) at `timestep`.
        output, null_output: (N, C or 2 C, H, W), the model's for the labels and the null label.
        guidance: (N,).
    Source: DDIM, Song et al. 2020 (arXiv 2010.02502) eq. 12 with sigma = 0; guidance, Ho &
    Salimans 2022 (arXiv 2207.12598) eq. 6.
    """
    alpha = ALPHAS_CUMPROD[timestep]
    alpha_next = 1.0 if next_timestep is None else ALPHAS_CUMPROD[next_timestep]
    channels = latent.shape[1]
    eps, null_eps = output[:, :channels], null_output[:, :channels]
    guided = null_eps + guidance[:, None, None, None] * (eps - null_eps)
    x_start = (latent - (1 - alpha) ** 0.5 * guided) / alpha**0.5
    return alpha_next**0.5 * x_start + (1 - alpha_next) ** 0.5 * guided


@torch.no_grad()
def condition_moment(
    teacher: DiT | StreamedDiT, *, null_share: float, seed: int, count: int = 4096
) -> Tensor:
    """E[s s^T] of s = SiLU(condition), the input of every adaLN linear, (D, D), by the teacher.

    The condition depends on timestep and label alone, so that many more of them than of tokens can
    be had at no cost: `count` timesteps and labels drawn uniformly, a share with the null label.
    """
    config = teacher.config
    generator = torch.Generator().manual_seed(seed)
    timestep = torch.randint(NUM_TRAIN_TIMESTEPS, (count,), generator=generator).float()
    label = torch.randint(config.num_classes, (count,), generator=generator)
    is_null = torch.rand(count, generator=generator) < null_share
    label = torch.where(is_null, config.null_label, label)
    device = teacher.y_embedder.embedding_table.weight.device
    condition = teacher.t_embedder(timestep.to(device)) + teacher.y_embedder(label.to(device))
    rows = F.silu(condition)
    return rows.T @ rows / count


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Calibration inputs and the teacher's answer: latent, timestep, label -> output."""

    latent: Tensor
    timestep: Tensor
    label: Tensor
    output: Tensor

    def to(self, device: str) -> Batch:
        """The same on a device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


def draw_batch(
    trajectories: Trajectories, size: int, *, null_label: int, null_share: float, seed: int
) -> Batch:
    """Draw points at random, a share of them with the null label.

    Args:
        trajectories: where to draw from.
        size: B points, with replacement.
        null_label: label of the dropped class.
        null_share: probability of the null label.
        seed: the same seed gives the same batch, so that an interrupted run can go on exactly.
    Returns:
        latent (B, C, H, W), timestep (B,) float32, label (B,), output (B, out_channels, H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    num_steps, num_samples = trajectories.latents.shape[:2]
    step = torch.randint(num_steps, (size,), generator=generator)
    sample = torch.randint(num_samples, (size,), generator=generator)
    is_null = torch.rand(size, generator=generator) < null_share
    label = torch.where(is_null, null_label, trajectories.labels[sample])
    output = torch.where(
        is_null[:, None, None, None],
        trajectories.null_outputs[step, sample],
        trajectories.outputs[step, sample],
    )
    return Batch(
        latent=trajectories.latents[step, sample],
        timestep=trajectories.timesteps[step].float(),
        label=label,
        output=output,
    )
