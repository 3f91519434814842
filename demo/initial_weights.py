"""Weights that the training of a DiT begins with.

Source: Peebles & Xie 2023 (arXiv 2212.09748), section 3.2 (adaLN-Zero: gates and output start at
zero); Vaswani et al. 2017 (arXiv 1706.03762), section 3.5 (positions), in two dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vq4dit.calibrate.dit import DiT


def set_initial_weights(model: DiT) -> None:
    """Fill a model in place, from torch's global generator."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    patch = model.x_embedder.proj
    nn.init.xavier_uniform_(patch.weight.view(len(patch.weight), -1))
    nn.init.zeros_(patch.bias)
    for table in (
        model.y_embedder.embedding_table, model.t_embedder.mlp[0], model.t_embedder.mlp[2],
    ):  # fmt: skip
        nn.init.normal_(table.weight, std=0.02)
    for block in model.blocks:
        nn.init.zeros_(block.adaLN_modulation[1].weight)
    nn.init.zeros_(model.final_layer.adaLN_modulation[1].weight)
    nn.init.zeros_(model.final_layer.linear.weight)
    model.pos_embed.data.copy_(sine_positions(model.config.hidden_size, model.config.grid_size))


def sine_positions(hidden_size: int, grid_size: int) -> Tensor:
    """Position table (1, grid_size ** 2, hidden_size): half for the column, half for the row."""
    position = torch.arange(grid_size, dtype=torch.float64)
    column, row = position.repeat(grid_size), position.repeat_interleave(grid_size)
    halves = [_sines(hidden_size // 2, axis) for axis in (column, row)]
    return torch.cat(halves, dim=1).float()[None]


def _sines(size: int, position: Tensor) -> Tensor:
    """(T,) -> (T, size): sines, then cosines, of falling frequencies."""
    frequency = 10000.0 ** (-torch.arange(size // 2, dtype=torch.float64) / (size / 2))
    angle = position[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)
