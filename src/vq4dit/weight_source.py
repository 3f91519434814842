"""What export needs from a file of weights, quantized or not: a protocol, so that it can stream."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from .model_config import ModelConfig
from .plugins.layer import QuantizedLayer


class WeightSource(Protocol):
    """A checked DiT file, read tensor by tensor.

    Implemented by `calibrate.artifact.Artifact` and `calibrate.checkpoint.Checkpoint`.
    """

    @property
    def config(self) -> ModelConfig:
        """Sizes of the model."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """One name per class, or empty where unknown."""

    @property
    def latent_scaling_factor(self) -> float:
        """Latents are VAE codes times this factor."""

    @property
    def sha256(self) -> str:
        """Hash of the file, 64 hexadecimal digits."""

    def quantized_layer(self, name: str) -> QuantizedLayer | None:
        """The quantized linear `name` (such as "blocks.0.attn.qkv"), None if it is dense."""

    def tensor(self, name: str) -> NDArray[Any]:
        """A dense tensor of the state dict as float32; ArtifactError if it is not there.

        The weight and bias of a quantized linear are not dense tensors.
        """
