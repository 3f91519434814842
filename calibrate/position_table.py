"""The fixed 2-D sin-cos position table of a DiT, for checkpoints that do not store it."""

from __future__ import annotations

import torch

from vq4dit.model_config import ModelConfig

_MAX_PERIOD = 10000.0


def sincos_position_table(config: ModelConfig) -> torch.Tensor:
    """Position embedding of each token, computed in float64.

    Token g * i + j lies in row i and column j. The first D/2 channels embed the column, the others
    the row: D/4 sines, then D/4 cosines of position * 10000^(-m / (D/4)).

    Args:
        config: sizes of the model; hidden_size D is a multiple of 4.
    Returns:
        (1, T, D) float32.
    Source: Peebles & Xie 2023 (arXiv 2212.09748), section 3.2 (frequency-based embeddings); channel
        order as in the public checkpoints' `pos_embed`.
    """
    quarter = config.hidden_size // 4
    exponent = torch.arange(quarter, dtype=torch.float64) / quarter
    position = torch.arange(config.grid_size, dtype=torch.float64)
    angle = position[:, None] * _MAX_PERIOD**-exponent  # (g, D/4)
    one_axis = torch.cat([angle.sin(), angle.cos()], dim=1)  # (g, D/2)
    grid = (config.grid_size, config.grid_size, 2 * quarter)
    column, row = one_axis[None].expand(grid), one_axis[:, None].expand(grid)
    table = torch.cat([column, row], dim=2)  # (g, g, D)
    return table.reshape(1, config.num_tokens, config.hidden_size).float()
