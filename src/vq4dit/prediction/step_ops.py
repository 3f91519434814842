"""What one sampling step of a DiT computes, operation by operation, as a fused engine runs it.

Linears with bias, activation, gate and residual in their epilogue; fused attention; one pass per
LayerNorm with modulation. Knows no machine. Source of the structure: Peebles & Xie 2023
(arXiv 2212.09748), figure 3, adaLN-Zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vq4dit.model_config import TIMESTEP_EMBEDDING_SIZE, ModelConfig

_HALF = 2  # bytes of a float16
_FLOAT = 4

#: Parts of a step, in the order in which they are printed.
PARTS = ("embedders", "adaln", "attention", "mlp", "final", "update")


@dataclass(frozen=True, kw_only=True)
class StepOp:
    """One operation.

    Args:
        name: of the layer, or what it does behind the layer's name.
        part: one of PARTS; kind: "linear", "attention" or "elementwise".
        m, n, k: of a linear; of attention m rows, n = tokens of one sample, k = hidden size.
        bytes_moved: of an elementwise pass, or q, k, v and output of attention, in float16 with a
            float32 residual stream.
        bytes_per_output: what a linear's epilogue reads and writes per element.
        is_quantized: a linear that has codebooks in a quantized model.
        count: how many linears of equal inputs one launch may hold (adaLN of all blocks).
    """

    name: str
    part: str
    kind: str
    m: int = 0
    n: int = 0
    k: int = 0
    bytes_moved: int = 0
    bytes_per_output: int = _HALF
    is_quantized: bool = False
    count: int = 1


def step_ops(config: ModelConfig, batch: int, *, cfg: bool = True) -> list[StepOp]:
    """Operations of one step for `batch` samples; with guidance every sample is two rows."""
    samples = 2 * batch if cfg else batch
    m, d = samples * config.num_tokens, config.hidden_size
    pixels = samples * config.in_channels * config.input_size**2
    patch = config.patch_size**2 * config.in_channels
    out = config.patch_size**2 * config.out_channels
    ops = [
        _linear("x_embedder.proj", "embedders", m, d, patch, bytes_per_output=_FLOAT),
        _linear("t_embedder.mlp.0", "embedders", samples, d, TIMESTEP_EMBEDDING_SIZE),
        _linear("t_embedder.mlp.2", "embedders", samples, d, d),
        _pass("y_embedder", "embedders", 3 * samples * d * _HALF),
        StepOp(
            name="blocks.adaLN_modulation.1", part="adaln", kind="linear", m=samples, n=6 * d,
            k=d, is_quantized=True, count=config.depth,
        ),
    ]  # fmt: skip
    for block in range(config.depth):
        ops += _block_ops(f"blocks.{block}", config, m)
    ops += [
        _linear("final_layer.adaLN_modulation.1", "final", samples, 2 * d, d),
        _pass("final_layer.norm", "final", m * d * (_FLOAT + _HALF)),
        _linear("final_layer.linear", "final", m, out, d),
        _pass("update", "update", 6 * pixels * _FLOAT),
    ]
    return ops


def _block_ops(block: str, config: ModelConfig, m: int) -> Iterator[StepOp]:
    d, hidden = config.hidden_size, config.mlp_size
    norm = m * d * (_FLOAT + _HALF)
    residual = 2 * _FLOAT
    yield _pass(f"{block}.norm1", "attention", norm)
    yield _linear(f"{block}.attn.qkv", "attention", m, 3 * d, d, is_quantized=True)
    yield StepOp(
        name=f"{block}.attn", part="attention", kind="attention", m=m, n=config.num_tokens, k=d,
        bytes_moved=4 * m * d * _HALF,
    )  # fmt: skip
    yield _linear(
        f"{block}.attn.proj", "attention", m, d, d, bytes_per_output=residual, is_quantized=True
    )
    yield _pass(f"{block}.norm2", "mlp", norm)
    yield _linear(f"{block}.mlp.fc1", "mlp", m, hidden, d, is_quantized=True)
    yield _linear(
        f"{block}.mlp.fc2", "mlp", m, d, hidden, bytes_per_output=residual, is_quantized=True
    )


def activation_bytes(config: ModelConfig, batch: int, *, cfg: bool = True) -> int:
    """Most bytes of activations that live at one time, with buffers used again.

    The float32 residual stream, the modulations of all blocks, and the larger of attention's and
    the MLP's intermediate tensors in float16; latents, noise and history in float32.
    """
    samples = 2 * batch if cfg else batch
    m, d = samples * config.num_tokens, config.hidden_size
    latents = 5 * batch * config.in_channels * config.input_size**2 * _FLOAT
    modulation = samples * 6 * d * config.depth * _HALF
    widest = max(d + 3 * d + d, d + config.mlp_size) * m * _HALF
    return m * d * _FLOAT + modulation + widest + latents


def _linear(
    name: str, part: str, m: int, n: int, k: int, *, bytes_per_output: int = _HALF,
    is_quantized: bool = False,
) -> StepOp:  # fmt: skip
    return StepOp(
        name=name, part=part, kind="linear", m=m, n=n, k=k, bytes_per_output=bytes_per_output,
        is_quantized=is_quantized,
    )  # fmt: skip


def _pass(name: str, part: str, bytes_moved: int) -> StepOp:
    return StepOp(name=name, part=part, kind="elementwise", bytes_moved=bytes_moved)
