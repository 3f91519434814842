"""The Diffusion Transformer as an ONNX graph.

Source: Peebles & Xie 2023 (arXiv 2212.09748), section 3, figure 3 (adaLN-Zero block); the order of
the modulation vectors and the timestep frequencies as in the public checkpoints. Does not know the
sampler. In a float16 or bfloat16 model the patch embedding, the residual stream, LayerNorm with its
modulation, softmax and the last linear are float32.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vq4dit.model_config import TIMESTEP_EMBEDDING_SIZE, ModelConfig
from vq4dit.weight_source import WeightSource

from .element_types import FP32
from .graph import GraphBuilder
from .linears import Linears, add_silu

_LAYER_NORM_EPSILON = 1e-6

#: Longest period of the timestep embedding, over 2 pi.
_MAX_PERIOD = 10000

#: Modulation vectors of one block in the order of its adaLN rows.
_MODULATION = ("shift_msa", "scale_msa", "gate_msa", "shift_mlp", "scale_mlp", "gate_mlp")


class Network:
    """Adds a DiT to a graph. Shapes: N samples, B rows (2 N with guidance), T tokens, D hidden."""

    def __init__(
        self,
        graph: GraphBuilder,
        linears: Linears,
        source: WeightSource,
        *,
        is_doubled: bool,
        fuse_adaln: bool,
        fuse_attention: bool,
    ) -> None:
        self._graph = graph
        self._linears = linears
        self._source = source
        self._config: ModelConfig = source.config
        self._is_doubled = is_doubled
        self._fuse_adaln = fuse_adaln
        self._fuse_attention = fuse_attention

    def add(self, latent: str, timestep: str, label: str) -> str:
        """latent (N, C, H, W), timestep (N), label (N) -> the model's output (B, out, H, W).

        Doubled, rows 0..N-1 are the samples with their labels and rows N..2N-1 the same samples
        with the null label.
        """
        config = self._config
        x = self._add_patches(latent)  # (B, T, D)
        silu_c = add_silu(self._graph, "condition.silu", self._add_condition(timestep, label))
        modulation = self._add_modulation(silu_c)
        for block in range(config.depth):
            x = self._add_block(f"blocks.{block}", x, modulation[block])
        return self._add_final_layer(x, silu_c)

    def _add_patches(self, latent: str) -> str:
        """Patch embedding and position: (N, C, H, W) -> (B, T, D); computed once per sample."""
        graph, config, source = self._graph, self._config, self._source
        patch = config.patch_size
        weight = graph.initializer(
            "x_embedder.proj.weight", source.tensor("x_embedder.proj.weight").astype(np.float32)
        )
        bias = graph.initializer(
            "x_embedder.proj.bias", source.tensor("x_embedder.proj.bias").astype(np.float32)
        )
        size = [patch, patch]
        grid = graph.op(
            "x_embedder.proj", "Conv", latent, weight, bias, kernel_shape=size, strides=size
        )  # (N, D, g, g)
        flat = graph.reshape("x_embedder.flat", grid, [0, config.hidden_size, config.num_tokens])
        tokens = graph.op("x_embedder.tokens", "Transpose", flat, perm=[0, 2, 1])  # (N, T, D)
        position = graph.initializer("pos_embed", source.tensor("pos_embed").astype(np.float32))
        placed = graph.op("x_embedder", "Add", tokens, position)
        return self._double("x_embedder.doubled", placed, placed)

    def _add_condition(self, timestep: str, label: str) -> str:
        """Timestep and label embedding: (N), (N) -> (B, D)."""
        graph, config = self._graph, self._config
        column = graph.op("t_embedder.column", "Unsqueeze", timestep, graph.constant([1]))
        frequencies = graph.constant(timestep_frequencies()[None], np.float32)
        angle = graph.op("t_embedder.angle", "Mul", column, frequencies)  # (N, 128)
        waves = [graph.op(f"t_embedder.{op.lower()}", op, angle) for op in ("Cos", "Sin")]
        embedding = self._narrow(
            graph.op("t_embedder.embedding", "Concat", *waves, axis=1)
        )  # (N, 256)
        hidden = self._linears.add("t_embedder.mlp.0", embedding, activation="silu")
        t = self._linears.add("t_embedder.mlp.2", hidden)  # (N, D)
        table = graph.initializer(
            "y_embedder.embedding_table.weight",
            self._source.tensor("y_embedder.embedding_table.weight").astype(
                self._linears.element.numpy_dtype
            ),
        )
        y = graph.op("y_embedder", "Gather", table, label, axis=0)
        given = graph.op("condition.label", "Add", t, y)
        if not self._is_doubled:
            return given
        row = graph.op("y_embedder.null", "Gather", table, graph.constant([config.null_label]))
        return self._double("condition", given, graph.op("condition.null", "Add", t, row))

    def _double(self, name: str, x: str, null: str) -> str:
        """Rows of the samples, and behind them the rows with the null label if there are any."""
        if not self._is_doubled:
            return x
        return self._graph.op(name, "Concat", x, null, axis=0)

    def _add_modulation(self, silu_c: str) -> list[list[str]]:
        """For each block its six vectors (B, D), in the order of _MODULATION."""
        config = self._config
        names = [f"blocks.{block}.adaLN_modulation.1" for block in range(config.depth)]
        stacked = None
        if self._fuse_adaln:
            stacked = self._linears.add_stacked("blocks.adaLN_modulation.1", names, silu_c)
        each = len(_MODULATION)
        if stacked is not None:
            sizes = [config.hidden_size] * (each * config.depth)
            parts = self._graph.split("blocks.modulation", stacked, sizes, axis=1)
            return [parts[each * block : each * (block + 1)] for block in range(config.depth)]
        return [
            self._graph.split(
                f"blocks.{block}.modulation",
                self._linears.add(name, silu_c),
                [config.hidden_size] * each,
                axis=1,
            )
            for block, name in enumerate(names)
        ]

    def _add_block(self, name: str, x: str, modulation: list[str]) -> str:
        """One adaLN-Zero block, (B, T, D) -> (B, T, D)."""
        vector = dict(zip(_MODULATION, modulation, strict=True))
        tokens = self._config.num_tokens
        h = self._narrow(
            self._modulate(f"{name}.norm1", x, vector["shift_msa"], vector["scale_msa"])
        )
        attended = self._add_attention(f"{name}.attn", h)
        x = self._linears.add_residual(
            f"{name}.attn.proj", attended, vector["gate_msa"], x, tokens=tokens
        )
        h = self._narrow(
            self._modulate(f"{name}.norm2", x, vector["shift_mlp"], vector["scale_mlp"])
        )
        hidden = self._linears.add(f"{name}.mlp.fc1", h, activation="gelu_tanh", tokens=tokens)
        return self._linears.add_residual(
            f"{name}.mlp.fc2", hidden, vector["gate_mlp"], x, tokens=tokens
        )

    def _modulate(self, name: str, x: str, shift: str, scale: str) -> str:
        """LayerNorm(x) * (1 + scale) + shift in float32, scale and shift (B, D)."""
        graph = self._graph
        shift, scale = self._wide(shift), self._wide(scale)
        ones = graph.initializer_once("ones", np.ones(self._config.hidden_size, np.float32))
        normal = graph.op(name, "LayerNormalization", x, ones, axis=-1, epsilon=_LAYER_NORM_EPSILON)
        factor = graph.op(f"{name}.factor", "Add", scale, graph.constant(1, np.float32))
        axis = graph.constant([1])
        wide_factor = graph.op(f"{name}.scale", "Unsqueeze", factor, axis)  # (B, 1, D)
        wide_shift = graph.op(f"{name}.shift", "Unsqueeze", shift, axis)
        scaled = graph.op(f"{name}.scaled", "Mul", normal, wide_factor)
        return graph.op(f"{name}.modulated", "Add", scaled, wide_shift)

    def _add_attention(self, name: str, x: str) -> str:
        """Softmax(q k^T / sqrt(head size)) v of all heads, (B, T, D) -> (B, T, D), before proj."""
        graph, config = self._graph, self._config
        qkv = self._linears.add(f"{name}.qkv", x, tokens=config.num_tokens)  # (B, T, 3 D)
        parts = graph.split(f"{name}.split", qkv, [config.hidden_size] * 3, axis=2)
        if self._fuse_attention:
            return graph.ort_op(
                name, "MultiHeadAttention", *parts, num_heads=config.num_heads,
                output_shape=[None, config.num_tokens, config.hidden_size],
            )  # fmt: skip
        return self._add_plain_attention(name, parts)

    def _add_plain_attention(self, name: str, parts: list[str]) -> str:
        """Attention from ONNX's own operators; `parts` are q, k and v, (B, T, D) each."""
        graph, config = self._graph, self._config
        head_size = config.hidden_size // config.num_heads
        heads = []
        # k is turned to (B, heads, head size, T) at once; q and v to (B, heads, T, head size).
        for letter, part, perm in zip(
            "qkv", parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True
        ):
            shape = [0, config.num_tokens, config.num_heads, head_size]
            split = graph.reshape(f"{name}.{letter}.heads", part, shape)
            heads.append(graph.op(f"{name}.{letter}", "Transpose", split, perm=perm))
        q, k, v = heads
        scale = graph.constant(1 / math.sqrt(head_size), self._linears.element.numpy_dtype)
        scores = graph.op(
            f"{name}.scores", "MatMul", graph.op(f"{name}.q_scaled", "Mul", q, scale), k
        )
        weights = self._narrow(
            graph.op(f"{name}.softmax", "Softmax", self._wide(scores), axis=-1)
        )  # (B, heads, T, T)
        mixed = graph.op(f"{name}.mixed", "MatMul", weights, v)  # (B, heads, T, head size)
        turned = graph.op(f"{name}.turned", "Transpose", mixed, perm=[0, 2, 1, 3])
        return graph.reshape(name, turned, [0, config.num_tokens, config.hidden_size])

    def _add_final_layer(self, x: str, silu_c: str) -> str:
        """Final modulation, linear and the way back from patches: (B, T, D) -> (B, out, H, W)."""
        graph, config = self._graph, self._config
        vectors = self._linears.add("final_layer.adaLN_modulation.1", silu_c)
        shift, scale = graph.split(
            "final_layer.modulation", vectors, [config.hidden_size] * 2, axis=1
        )
        h = self._modulate("final_layer.norm_final", x, shift, scale)
        y = self._linears.add_float32("final_layer.linear", h)  # (B, T, p * p * out)
        grid, patch, channels = config.grid_size, config.patch_size, config.out_channels
        split = graph.reshape("unpatchify.split", y, [0, grid, grid, patch, patch, channels])
        turned = graph.op("unpatchify.turned", "Transpose", split, perm=[0, 5, 1, 3, 2, 4])
        return graph.reshape(
            "model_output", turned, [0, channels, config.input_size, config.input_size]
        )

    def _narrow(self, x: str) -> str:
        """float32 -> the model's element type."""
        element = self._linears.element
        return x if element is FP32 else self._graph.cast(f"{x}.{element.name}", x, element)

    def _wide(self, x: str) -> str:
        """The model's element type -> float32."""
        is_wide = self._linears.element is FP32
        return x if is_wide else self._graph.cast(f"{x}.float32", x, FP32)


def timestep_frequencies() -> NDArray[np.float32]:
    """Angular frequencies exp(-ln(10000) i / 128) of the timestep embedding, (128,).

    The argument is rounded to float32 as in the public code, since the angle is the frequency times
    up to 999: an exact argument would move it by 1e-4. exp itself is computed in float64, so that
    the file's bytes do not depend on the machine.
    """
    half = TIMESTEP_EMBEDDING_SIZE // 2
    steps = np.arange(half, dtype=np.float32)
    argument = np.float32(-math.log(_MAX_PERIOD)) * steps / np.float32(half)
    return np.exp(argument.astype(np.float64)).astype(np.float32)
