"""What one sampling step of a DiT computes, operation by operation, as an engine runs it.

Linears with bias, activation, gate and residual in their epilogue; attention as one operation; one
pass per LayerNorm with modulation. Names and parts are those of the exported graph and of the
measured profile. Knows no machine. Source of the structure: Peebles & Xie 2023 (arXiv 2212.09748),
figure 3, adaLN-Zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vq4dit.model_config import TIMESTEP_EMBEDDING_SIZE, ModelConfig

_HALF = 2  # bytes of a float16
_FLOAT = 4

#: Parts of a step, as a measured profile names them; LayerNorm with modulation belongs to adaLN.
PARTS = ("attention", "MLP", "adaLN", "embedders", "final layer", "sampler update")

#: Kinds of operations; all but the first two are passes over activations.
KINDS = ("linear", "attention", "norm", "embedding", "update")


@dataclass(frozen=True, kw_only=True)
class StepOp:
    """One operation.

    Args:
        name: of the layer; part: one of PARTS; kind: one of KINDS.
        m, n, k: rows, out_features and in_features of a linear; of attention its rows, the tokens
            of one sample and the hidden size.
        heads: of attention.
        bytes_moved: of a pass, or q, k, v and output of attention, in float16 with a float32
            residual stream.
        bytes_per_output: what a linear's epilogue reads and writes per element.
        activation: of a linear, "none", "gelu_tanh" or "silu".
        is_residual: a linear with gate and residual.
        is_quantized: a linear that has codebooks in a quantized model.
        row_groups: codebooks of it there.
        count: how many linears of equal inputs one launch may hold (adaLN of all blocks).
    """

    name: str
    part: str
    kind: str
    m: int = 0
    n: int = 0
    k: int = 0
    heads: int = 1
    bytes_moved: int = 0
    bytes_per_output: int = _HALF
    activation: str = "none"
    is_residual: bool = False
    is_quantized: bool = False
    row_groups: int = 1
    count: int = 1


def step_ops(config: ModelConfig, batch: int, *, cfg: bool = True) -> list[StepOp]:
    """Operations of one step for `batch` samples; with guidance every sample is two rows."""
    rows = 2 * batch if cfg else batch
    m, d = rows * config.num_tokens, config.hidden_size
    pixels = batch * config.in_channels * config.input_size**2
    patch = config.patch_size**2 * config.in_channels
    out = config.patch_size**2 * config.out_channels
    each = batch * config.num_tokens
    return [
        StepOp(
            name="x_embedder", part="embedders", kind="linear", m=each, n=d, k=patch,
            bytes_per_output=_FLOAT * (2 if cfg else 1),
        ),
        _linear("t_embedder.mlp.0", "embedders", batch, d, TIMESTEP_EMBEDDING_SIZE, "silu"),
        _linear("t_embedder.mlp.2", "embedders", batch, d, d),
        _pass("condition", "embedders", "embedding", 3 * rows * d * _HALF),
        StepOp(
            name="blocks.adaLN_modulation.1", part="adaLN", kind="linear", m=rows, n=6 * d, k=d,
            is_quantized=True, row_groups=config.depth, count=config.depth,
        ),
        *(op for block in range(config.depth) for op in _block_ops(f"blocks.{block}", config, m)),
        _linear("final_layer.adaLN_modulation.1", "final layer", rows, 2 * d, d),
        _pass("final_layer.norm_final", "final layer", "norm", m * d * (_FLOAT + _HALF)),
        _linear("final_layer.linear", "final layer", m, out, d),
        _pass("update", "sampler update", "update", 12 * pixels * _FLOAT),
    ]  # fmt: skip


def activation_bytes(config: ModelConfig, batch: int, *, cfg: bool = True) -> int:
    """Most bytes of activations that live at one time, with buffers used again.

    The float32 residual stream, the modulations of all blocks, and the larger of attention's and
    the MLP's intermediate tensors in float16; latents, noise and history in float32.
    """
    rows = 2 * batch if cfg else batch
    m, d = rows * config.num_tokens, config.hidden_size
    latents = 5 * batch * config.in_channels * config.input_size**2 * _FLOAT
    modulation = rows * 6 * d * config.depth * _HALF
    widest = max(d + 3 * d + d, d + config.mlp_size) * m * _HALF
    return m * d * _FLOAT + modulation + widest + latents


def _block_ops(block: str, config: ModelConfig, m: int) -> Iterator[StepOp]:
    d, hidden = config.hidden_size, config.mlp_size
    norm = m * d * (_FLOAT + _HALF)
    yield _pass(f"{block}.norm1", "adaLN", "norm", norm)
    yield StepOp(
        name=f"{block}.attn.qkv", part="attention", kind="linear", m=m, n=3 * d, k=d,
        is_quantized=True, row_groups=3,
    )  # fmt: skip
    yield StepOp(
        name=f"{block}.attn", part="attention", kind="attention", m=m, n=config.num_tokens, k=d,
        heads=config.num_heads, bytes_moved=4 * m * d * _HALF,
    )  # fmt: skip
    yield _residual(f"{block}.attn.proj", "attention", m, d, d)
    yield _pass(f"{block}.norm2", "adaLN", "norm", norm)
    yield _linear(f"{block}.mlp.fc1", "MLP", m, hidden, d, "gelu_tanh", is_quantized=True)
    yield _residual(f"{block}.mlp.fc2", "MLP", m, d, hidden)


def _linear(
    name: str, part: str, m: int, n: int, k: int, activation: str = "none", *,
    is_quantized: bool = False,
) -> StepOp:  # fmt: skip
    return StepOp(
        name=name, part=part, kind="linear", m=m, n=n, k=k, activation=activation,
        is_quantized=is_quantized,
    )  # fmt: skip


def _residual(name: str, part: str, m: int, n: int, k: int) -> StepOp:
    """A quantized linear that ends in residual + gate * y, both in float32."""
    return StepOp(
        name=name, part=part, kind="linear", m=m, n=n, k=k, bytes_per_output=2 * _FLOAT,
        is_residual=True, is_quantized=True,
    )  # fmt: skip


def _pass(name: str, part: str, kind: str, bytes_moved: int) -> StepOp:
    return StepOp(name=name, part=part, kind=kind, bytes_moved=bytes_moved)
