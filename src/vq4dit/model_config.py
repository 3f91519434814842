"""Configuration of a Diffusion Transformer and what follows from it: names and shapes of tensors.

Source: Peebles & Xie 2023 (arXiv 2212.09748), table 1 and section 3; tensor names as in the public
DiT checkpoints. Knows nothing of quantization, files or frameworks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import ArtifactError

#: Width of the sinusoidal timestep embedding in front of `t_embedder.mlp.0`.
TIMESTEP_EMBEDDING_SIZE = 256

#: The linear layers of one block, in state-dict order of execution: name -> (O/D, I/D) for mlp 4.
BLOCK_LINEARS = ("adaLN_modulation.1", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a DiT; equals the arguments of the public model class.

    `input_size` is the latent's height and width; `num_classes` excludes the null label.
    """

    input_size: int
    patch_size: int
    in_channels: int
    hidden_size: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    learn_sigma: bool = True

    def __post_init__(self) -> None:
        """Refuse sizes that no DiT can have."""
        for name in ("input_size", "patch_size", "in_channels", "hidden_size", "depth",
                     "num_heads", "num_classes"):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 1 << 20:
                raise ArtifactError(
                    f"model config: {name} is {value!r}, needed an integer in 1..{1 << 20}"
                )
        if self.input_size % self.patch_size:
            raise ArtifactError(
                f"model config: input_size {self.input_size} is not a multiple of "
                f"patch_size {self.patch_size}"
            )
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ArtifactError(
                f"model config: hidden_size {self.hidden_size} must be a multiple of "
                f"num_heads {self.num_heads} and of 4"
            )
        if not isinstance(self.learn_sigma, bool):
            raise ArtifactError(f"model config: learn_sigma is {self.learn_sigma!r}, needed a bool")
        if not 0 < self.mlp_ratio <= 64:
            raise ArtifactError(f"model config: mlp_ratio is {self.mlp_ratio!r}, needed 0..64")

    @property
    def out_channels(self) -> int:
        """Channels of the model's output: eps, and the learned variance if there is one."""
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def grid_size(self) -> int:
        """Patches along one side."""
        return self.input_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Patches per sample."""
        return self.grid_size**2

    @property
    def mlp_size(self) -> int:
        """Width of the MLP's hidden layer."""
        return int(self.hidden_size * self.mlp_ratio)

    @property
    def null_label(self) -> int:
        """Label of the dropped class, used by classifier-free guidance."""
        return self.num_classes

    def block_linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Weight shapes (O, I) of every linear layer of every block, in order of execution."""
        d, m = self.hidden_size, self.mlp_size
        one = {
            "adaLN_modulation.1": (6 * d, d),
            "attn.qkv": (3 * d, d),
            "attn.proj": (d, d),
            "mlp.fc1": (m, d),
            "mlp.fc2": (d, m),
        }
        return {f"blocks.{b}.{n}": one[n] for b in range(self.depth) for n in BLOCK_LINEARS}

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the public state dict."""
        d, p, c = self.hidden_size, self.patch_size, self.in_channels
        shapes: dict[str, tuple[int, ...]] = {
            "pos_embed": (1, self.num_tokens, d),
            "x_embedder.proj.weight": (d, c, p, p),
            "x_embedder.proj.bias": (d,),
            "t_embedder.mlp.0.weight": (d, TIMESTEP_EMBEDDING_SIZE),
            "t_embedder.mlp.0.bias": (d,),
            "t_embedder.mlp.2.weight": (d, d),
            "t_embedder.mlp.2.bias": (d,),
            "y_embedder.embedding_table.weight": (self.num_classes + 1, d),
        }
        for name, (rows, columns) in self.block_linear_shapes().items():
            shapes[f"{name}.weight"] = (rows, columns)
            shapes[f"{name}.bias"] = (rows,)
        shapes["final_layer.linear.weight"] = (p * p * self.out_channels, d)
        shapes["final_layer.linear.bias"] = (p * p * self.out_channels,)
        shapes["final_layer.adaLN_modulation.1.weight"] = (2 * d, d)
        shapes["final_layer.adaLN_modulation.1.bias"] = (2 * d,)
        return shapes

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build from parsed JSON; an unknown or a missing key is an ArtifactError."""
        if not isinstance(values, Mapping):
            raise ArtifactError(f"model config: found {type(values).__name__}, needed an object")
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ArtifactError(f"model config: unknown keys {unknown}; known are {sorted(known)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ArtifactError(f"model config: {error}") from None


def _preset(name: str, hidden_size: int, depth: int, num_heads: int) -> dict[str, ModelConfig]:
    """The three patch sizes of one model of the paper, for 256x256 pictures (latent 4x32x32)."""
    return {
        f"DiT-{name}/{patch}": ModelConfig(
            input_size=32,
            patch_size=patch,
            in_channels=4,
            hidden_size=hidden_size,
            depth=depth,
            num_heads=num_heads,
        )  # fmt: skip
        for patch in (2, 4, 8)
    }


#: The paper's models (table 1) at 256x256; `dataclasses.replace(..., input_size=64)` for 512x512.
PRESETS: dict[str, ModelConfig] = {
    **_preset("S", 384, 12, 6),
    **_preset("B", 768, 12, 12),
    **_preset("L", 1024, 24, 16),
    **_preset("XL", 1152, 28, 16),
}
