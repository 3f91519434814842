"""State of an optimizer as named tensors, so that training can go on in another process."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_PREFIX = "optimizer"


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What the optimizer keeps for each named parameter, as "optimizer.<what>.<name>"."""
    return {
        f"{_PREFIX}.{what}.{name}": value.detach()
        for name, parameter in parameters.items()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
) -> None:
    """Give the optimizer back what `optimizer_tensors` took from it, for the same parameters.

    Step counts stay on the CPU, where torch's optimizers keep them.
    """
    for key, value in tensors.items():
        prefix, _, rest = key.partition(".")
        what, _, name = rest.partition(".")
        if prefix == _PREFIX and name in parameters:
            parameter = parameters[name]
            device = parameter.device if value.ndim else "cpu"
            optimizer.state[parameter][what] = value.to(device).clone()
