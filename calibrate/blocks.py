"""One DiT block at a time: load it, list and replace its linears, watch their inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vq4dit.model_config import BLOCK_LINEARS

from .checkpoint import Checkpoint
from .dit import DiTBlock


def load_block(source: Checkpoint, index: int, device: str) -> DiTBlock:
    """Block `index` of a checkpoint in float32, without gradients; the rest is not read."""
    with torch.device("meta"):  # no time for random weights
        block = DiTBlock(source.config)
    names = block.state_dict().keys()
    state = {name: source.torch_tensor(f"blocks.{index}.{name}").to(device) for name in names}
    block.load_state_dict(state, assign=True)
    return block.requires_grad_(False)


def dense_linear(source: Checkpoint, name: str, device: str) -> nn.Linear:
    """One linear of a checkpoint by its full name, in float32 and without gradients."""
    rows, columns = source.config.block_linear_shapes()[name]
    linear = nn.Linear(columns, rows, device="meta").requires_grad_(False)
    parts = ("weight", "bias")
    state = {part: source.torch_tensor(f"{name}.{part}").to(device) for part in parts}
    linear.load_state_dict(state, assign=True)
    return linear.requires_grad_(False)


def block_linears(block: DiTBlock) -> dict[str, nn.Module]:
    """The block's linears by name, in order of execution; VQLinear where they were replaced."""
    return {name: block.get_submodule(name) for name in BLOCK_LINEARS}


def replace_linear(block: DiTBlock, name: str, layer: nn.Module) -> None:
    """Put another module in the place of a linear."""
    parent, _, attribute = name.rpartition(".")
    setattr(block.get_submodule(parent), attribute, layer)


class SecondMoments:
    """Running mean of x x^T over all rows that a layer has seen, (I, I) float32."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, x: Tensor) -> None:
        """Count the rows of x (..., I), in float32 whatever autocast makes of them."""
        rows = x.reshape(-1, x.shape[-1]).float()
        if self._sum is None:
            self._sum = torch.zeros(rows.shape[1], rows.shape[1], device=rows.device)
        with torch.autocast(rows.device.type, enabled=False):
            self._sum.addmm_(rows.T, rows)
        self._count += len(rows)

    def mean(self) -> Tensor:
        """E[x x^T] so far."""
        assert self._sum is not None, "no inputs seen"
        return self._sum / self._count


@contextmanager
def watch_inputs(block: DiTBlock) -> Iterator[dict[str, SecondMoments]]:
    """Collect the second moments of every linear's inputs while the context is open."""
    moments = {name: SecondMoments() for name in BLOCK_LINEARS}
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: moments[name].add(inputs[0]))
        for name, layer in block_linears(block).items()
    ]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()
