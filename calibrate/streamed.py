"""The full-precision teacher without its blocks in memory: each is read when its turn comes.

A DiT-XL/2 needs 2.7 GB in float32, one of its blocks 96 MB. Reading a block from a mapped file
costs far less than running it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vq4dit.model_config import ModelConfig

from .blocks import load_block
from .checkpoint import Checkpoint
from .compute import Compute
from .dit import DiT


class StreamedDiT:
    """A DiT whose embedders and final layer are in memory and whose blocks stay in the file.

    Inference only. Takes tensors on any device; `t_embedder` and `y_embedder` are those of `DiT`.
    """

    def __init__(self, source: Checkpoint, compute: Compute) -> None:
        """Read everything but the blocks."""
        self._source, self._compute = source, compute
        self._outer = outer_model(source, compute.device)
        self.t_embedder, self.y_embedder = self._outer.t_embedder, self._outer.y_embedder

    @property
    def config(self) -> ModelConfig:
        """Sizes of the model."""
        return self._source.config

    @torch.no_grad()
    def embed(self, latent: Tensor, timestep: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """The first block's input as `DiT.embed` gives it, on the device that computes."""
        inputs = (x.to(self._compute.device) for x in (latent, timestep, label))
        with self._compute.forward():
            tokens, condition = self._outer.embed(*inputs)
        return tokens.float(), condition.float()

    @torch.no_grad()
    def __call__(self, latent: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        """The same as `DiT.forward`; the result is where `latent` is."""
        x, c = self.embed(latent, timestep, label)
        with self._compute.forward():
            for index in range(self.config.depth):
                x = load_block(self._source, index, self._compute.device)(x, c)
            output = self._outer.unpatchify(self._outer.final_layer(x, c))
        return output.to(latent)


def outer_model(source: Checkpoint, device: str) -> DiT:
    """A DiT without blocks, in float32 and without gradients: embedders and final layer."""
    with torch.device("meta"):
        model = DiT(source.config)
        model.blocks = nn.ModuleList()
    state = {name: source.torch_tensor(name).to(device) for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()
