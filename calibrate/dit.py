"""The Diffusion Transformer as a torch module, with the state-dict keys of the public checkpoints.

Source: Peebles & Xie 2023 (arXiv 2212.09748), section 3 and figure 3 (adaLN-Zero block). Serves as
the full-precision teacher and, with decoded weights, as an oracle. Inference and calibration only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vq4dit.model_config import TIMESTEP_EMBEDDING_SIZE, ModelConfig

_LAYER_NORM_EPS = 1e-6
_MAX_PERIOD = 10000.0


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift tokens x (N, T, D) by one vector per sample: shift and scale (N, D)."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def layer_norm(x: Tensor) -> Tensor:
    """LayerNorm over the last axis without learned scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=_LAYER_NORM_EPS)


class PatchEmbed(nn.Module):
    """Latent (N, C, H, W) -> tokens (N, T, D), row by row."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.proj = nn.Conv2d(config.in_channels, config.hidden_size, size, stride=size)

    def forward(self, latent: Tensor) -> Tensor:
        """Embed each patch."""
        return self.proj(latent).flatten(2).transpose(1, 2)


class TimestepEmbedder(nn.Module):
    """Timesteps (N,) -> (N, D): sinusoids (cosines first), then a two-layer MLP."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIMESTEP_EMBEDDING_SIZE, hidden_size),
            nn.SiLU(),
            nn.Linear(hidden_size, hidden_size),
        )

    def forward(self, timestep: Tensor) -> Tensor:
        """Embed timesteps on the training schedule, 0..999."""
        half = TIMESTEP_EMBEDDING_SIZE // 2
        exponent = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
        angle = timestep.float()[:, None] * torch.exp(
            -math.log(_MAX_PERIOD) * exponent
        )  # (N, half)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1))


class LabelEmbedder(nn.Module):
    """Labels (N,) -> (N, D); the last row of the table is the null label."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.num_classes + 1, config.hidden_size)

    def forward(self, label: Tensor) -> Tensor:
        """Look up labels."""
        return self.embedding_table(label)


class Attention(nn.Module):
    """Multi-head self-attention with one fused qkv projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each sample: (N, T, D) -> (N, T, D)."""
        n, t, d = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, T, head_dim)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(n, t, d))


class Mlp(nn.Module):
    """Two linears with tanh-approximated GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.mlp_size)
        self.fc2 = nn.Linear(config.mlp_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class DiTBlock(nn.Module):
    """One adaLN-Zero block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attn = Attention(config)
        self.mlp = Mlp(config)
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(config.hidden_size, 6 * config.hidden_size)
        )

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Transform tokens x (N, T, D) under the condition c (N, D)."""
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(
            c
        ).chunk(6, dim=1)
        x = x + gate_msa.unsqueeze(1) * self.attn(modulate(layer_norm(x), shift_msa, scale_msa))
        return x + gate_mlp.unsqueeze(1) * self.mlp(modulate(layer_norm(x), shift_mlp, scale_mlp))


class FinalLayer(nn.Module):
    """Modulated LayerNorm and the projection to patches."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        patch_values = config.patch_size**2 * config.out_channels
        self.linear = nn.Linear(config.hidden_size, patch_values)
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(config.hidden_size, 2 * config.hidden_size)
        )

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, p * p * out_channels)."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(layer_norm(x), shift, scale))


class DiT(nn.Module):
    """The whole model: eps, and the learned variance where the configuration has it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbed(config)
        self.t_embedder = TimestepEmbedder(config.hidden_size)
        self.y_embedder = LabelEmbedder(config)
        self.pos_embed = nn.Parameter(
            torch.zeros(1, config.num_tokens, config.hidden_size), requires_grad=False
        )
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)

    def embed(self, latent: Tensor, timestep: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """The first block's input: tokens (N, T, D) and condition (N, D)."""
        tokens = self.x_embedder(latent) + self.pos_embed  # (N, T, D)
        return tokens, self.t_embedder(timestep) + self.y_embedder(label)

    def forward(self, latent: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        """Predict eps (and variance values) of a noisy latent.

        Args:
            latent: (N, C, H, W) float.
            timestep: (N,) on the training schedule 0..999.
            label: (N,) int64, 0..num_classes (the last one is the null label).
        Returns:
            (N, out_channels, H, W).
        """
        x, c = self.embed(latent, timestep, label)
        for block in self.blocks:
            x = block(x, c)
        return self.unpatchify(self.final_layer(x, c))

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Patches (N, T, p * p * C) -> picture (N, C, H, W)."""
        grid, p, c = self.config.grid_size, self.config.patch_size, self.config.out_channels
        x = patches.reshape(-1, grid, grid, p, p, c)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, c, grid * p, grid * p)
