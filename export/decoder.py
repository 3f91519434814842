"""The VAE decoder as one ONNX file: latent (N, C, H, W) -> image (N, channels, 8H, 8W).

Written directly from a diffusers folder or a single safetensors file, without torch and without
running the model, so that the bytes are the same each time. AutoencoderKL is here, AutoencoderTiny
in `tiny_decoder`.
The scaling is inside: the input is the sampler's latent, the image is not clipped. In a float16 or
bfloat16 decoder convolutions and matrix products are narrow, all else is float32.
Source: Rombach et al. 2022 (arXiv 2112.10752), appendix G; tensor names as in diffusers folders.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vq4dit.errors import ArtifactError

from .element_types import FP32, ElementType, element_type
from .external_data import ExternalData, write_model
from .graph import GraphBuilder
from .linears import add_silu
from .tiny_decoder import TinyDecoder
from .vae_config import KlConfig, TinyConfig
from .vae_source import VaeSource

_log = logging.getLogger(__name__)

DECODER_MODEL_NAME = "decoder.onnx"
DECODER_DATA_NAME = "decoder.onnx.data"

_NORM_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class DecoderModel:
    """A decoder on disk: `path`, its weights beside it, and the image shape (channels, H, W)."""

    path: Path
    data_path: Path
    image_shape: tuple[int, int, int]
    num_bytes: int


def build_decoder_model(
    vae: Path,
    directory: Path,
    *,
    latent_size: int,
    latent_channels: int | None = None,
    scaling_factor: float | None = None,
    weights: str = "fp32",
) -> DecoderModel:
    """Write `decoder.onnx` and `decoder.onnx.data` into a directory, which is made if need be.

    Args:
        vae: diffusers folder or safetensors file of an AutoencoderKL or AutoencoderTiny.
        directory: files of these names are replaced, others left alone.
        latent_size: H and W of the latent, or of a tile of it; the batch N is dynamic.
        latent_channels: C of the step model's latents, None if the VAE's is right in any case.
        scaling_factor: latents are VAE codes times this; None takes the VAE's own. An
            AutoencoderTiny takes latents as the sampler makes them, and its own factor counts.
        weights: element type of the products, "fp32", "fp16" or "bf16".
    Raises:
        OptionError: unknown element type.
        ArtifactError: the folder is damaged, or is a VAE of another kind.
        OSError: a file cannot be written; nothing is left under the final names by this call.
    """
    element = element_type(weights)
    source = VaeSource(vae)
    config = source.config
    if latent_channels not in (None, config.latent_channels):
        raise ArtifactError(
            f"{vae}: the VAE has {config.latent_channels} latent channels, the model "
            f"{latent_channels}; give the VAE that the model was trained with"
        )
    directory.mkdir(parents=True, exist_ok=True)
    with source, ExternalData(directory, DECODER_DATA_NAME) as data:
        graph = GraphBuilder(data)
        decoder: _KlDecoder | TinyDecoder
        if isinstance(config, TinyConfig):
            decoder = TinyDecoder(graph, source, config, latent_size, element)
            decoder.add(config.scaling_factor)
        else:
            decoder = _KlDecoder(graph, source, config, latent_size, element)
            decoder.add(_used_factor(vae, config, scaling_factor))
        model = graph.model("vq4dit_decoder")
        data.commit()
        write_model(model, directory / DECODER_MODEL_NAME)
        num_bytes = data.num_bytes + (directory / DECODER_MODEL_NAME).stat().st_size
    return DecoderModel(
        path=directory / DECODER_MODEL_NAME,
        data_path=directory / DECODER_DATA_NAME,
        image_shape=(config.out_channels, decoder.size, decoder.size),
        num_bytes=num_bytes,
    )


def _used_factor(vae: Path, config: KlConfig, given: float | None) -> float:
    """The scaling factor to undo: the given one, which belongs to the latents, or the VAE's own."""
    if given is None:
        return config.scaling_factor
    if not math.isclose(given, config.scaling_factor, rel_tol=1e-4):
        _log.warning(
            "the weights say that latents are scaled by %g, the VAE in %s says %g; using the first",
            given, vae, config.scaling_factor,
        )  # fmt: skip
    return given


class _KlDecoder:
    """Adds the decoder to a graph; node names are the module names of the state dict."""

    def __init__(
        self,
        graph: GraphBuilder,
        source: VaeSource,
        config: KlConfig,
        latent_size: int,
        element: ElementType,
    ) -> None:
        self._graph, self._source, self._config = graph, source, config
        self._element = element
        self.size = latent_size

    def add(self, scaling_factor: float) -> None:
        """The whole graph from input `latent` to output `image`."""
        graph, config = self._graph, self._config
        shape: list[int | str] = ["N", config.latent_channels, self.size, self.size]
        factor = graph.constant(scaling_factor, np.float32)
        x = graph.op("unscaled", "Div", graph.input("latent", shape), factor)
        if config.shift_factor:
            x = graph.op("shifted", "Add", x, graph.constant(config.shift_factor, np.float32))
        if config.use_post_quant_conv:
            x = self._conv("post_quant_conv", x, config.latent_channels, config.latent_channels, 1)
        channels = config.block_out_channels[-1]
        x = self._conv("decoder.conv_in", x, config.latent_channels, channels, 3)
        x = self._middle("decoder.mid_block", x, channels)
        for index, out_channels in enumerate(reversed(config.block_out_channels)):
            x = self._up_block(index, x, channels, out_channels)
            channels = out_channels
        x = self._norm("decoder.conv_norm_out", x, channels)
        x = add_silu(graph, "decoder.conv_act", x)
        self._conv("decoder.conv_out", x, channels, config.out_channels, 3, output="image")
        graph.output("image", ["N", config.out_channels, self.size, self.size])

    def _middle(self, name: str, x: str, channels: int) -> str:
        """Residual block, attention if there is one, residual block."""
        x = self._residual(f"{name}.resnets.0", x, channels, channels)
        if self._config.mid_block_add_attention:
            x = self._attention(f"{name}.attentions.0", x, channels)
        return self._residual(f"{name}.resnets.1", x, channels, channels)

    def _up_block(self, index: int, x: str, channels: int, out_channels: int) -> str:
        """layers_per_block + 1 residual blocks, then twice the size in all but the last one."""
        config, name = self._config, f"decoder.up_blocks.{index}"
        for layer in range(config.layers_per_block + 1):
            x = self._residual(f"{name}.resnets.{layer}", x, channels, out_channels)
            channels = out_channels
        if index == len(config.block_out_channels) - 1:
            return x
        graph = self._graph
        self.size *= 2
        larger = graph.op(
            f"{name}.upsamplers.0", "Resize", x, "", graph.constant([1, 1, 2, 2], np.float32),
            mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric",
        )  # fmt: skip
        return self._conv(f"{name}.upsamplers.0.conv", larger, channels, channels, 3)

    def _residual(self, name: str, x: str, channels: int, out_channels: int) -> str:
        """Two times norm, SiLU and convolution, added to x or to its 1x1 convolution."""
        h, width = x, channels
        for part in ("1", "2"):
            h = self._norm(f"{name}.norm{part}", h, width)
            h = add_silu(self._graph, f"{name}.silu{part}", h)
            h = self._conv(f"{name}.conv{part}", h, width, out_channels, 3)
            width = out_channels
        if channels != out_channels:
            x = self._conv(f"{name}.conv_shortcut", x, channels, out_channels, 1)
        return self._graph.op(name, "Add", x, h)

    def _attention(self, name: str, x: str, channels: int) -> str:
        """Self-attention with one head over the H*W places, added to x."""
        graph, places = self._graph, self.size**2
        h = self._norm(f"{name}.group_norm", x, channels)
        flat = graph.reshape(f"{name}.flat", h, [0, channels, places])
        tokens = self._narrow(
            graph.op(f"{name}.tokens", "Transpose", flat, perm=[0, 2, 1])
        )  # (N, HW, C)
        q, k, v = (
            self._linear(f"{name}.{part}", tokens, channels) for part in ("to_q", "to_k", "to_v")
        )
        scale = graph.constant(1 / math.sqrt(channels), self._element.numpy_dtype)
        q = graph.op(f"{name}.q_scaled", "Mul", q, scale)
        k = graph.op(f"{name}.k_turned", "Transpose", k, perm=[0, 2, 1])
        scores = graph.op(f"{name}.scores", "MatMul", q, k)  # (N, HW, HW)
        weights = self._narrow(graph.op(f"{name}.softmax", "Softmax", self._wide(scores), axis=-1))
        mixed = graph.op(f"{name}.mixed", "MatMul", weights, v)  # (N, HW, C)
        y = self._wide(self._linear(f"{name}.to_out.0", mixed, channels))
        turned = graph.op(f"{name}.turned", "Transpose", y, perm=[0, 2, 1])
        image = graph.reshape(f"{name}.image", turned, [0, channels, self.size, self.size])
        return graph.op(name, "Add", x, image)

    def _conv(
        self, name: str, x: str, channels: int, out_channels: int, kernel: int, output: str = ""
    ) -> str:
        """A convolution that keeps the size."""
        shape = (out_channels, channels, kernel, kernel)
        weight = self._weight(f"{name}.weight", shape, element=self._element)
        bias = self._weight(f"{name}.bias", (out_channels,), element=self._element)
        is_wide = self._element is FP32
        convolved = self._graph.op(
            output if output and is_wide else name, "Conv", self._narrow(x), weight, bias,
            kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4,
        )  # fmt: skip
        return self._wide(convolved, output)

    def _norm(self, name: str, x: str, channels: int) -> str:
        """GroupNorm by InstanceNormalization; GroupNormalization has its final form in opset 21."""
        graph, groups = self._graph, self._config.norm_num_groups
        ones, zeros = (graph.constant(np.full(groups, value), np.float32) for value in (1, 0))
        split = graph.reshape(f"{name}.groups", x, [0, groups, -1])
        normal = graph.op(
            f"{name}.normal", "InstanceNormalization", split, ones, zeros, epsilon=_NORM_EPSILON
        )
        image = graph.reshape(f"{name}.image", normal, [0, channels, self.size, self.size])
        weight, bias = (
            self._weight(f"{name}.{part}", (channels,), stored=(channels, 1, 1))
            for part in ("weight", "bias")
        )
        return graph.op(name, "Add", graph.op(f"{name}.scaled", "Mul", image, weight), bias)

    def _linear(self, name: str, x: str, channels: int) -> str:
        """A linear layer C -> C in the narrow type; the weight is stored as (I, O)."""
        graph, dtype = self._graph, self._element.numpy_dtype
        weight = self._source.tensor(f"{name}.weight", (channels, channels))
        stored = graph.initializer(f"{name}.weight", np.ascontiguousarray(weight.T, dtype=dtype))
        product = graph.op(f"{name}.product", "MatMul", x, stored)
        bias = self._weight(f"{name}.bias", (channels,), element=self._element)
        return graph.op(name, "Add", product, bias)

    def _weight(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        stored: tuple[int, ...] | None = None,
        element: ElementType = FP32,
    ) -> str:
        """An initializer from the VAE, reshaped to `stored` if that is given."""
        array = self._source.tensor(name, shape).astype(element.numpy_dtype, copy=False)
        return self._graph.initializer(name, array.reshape(stored or shape))

    def _narrow(self, x: str) -> str:
        """float32 -> the decoder's element type."""
        element = self._element
        return x if element is FP32 else self._graph.cast(f"{x}.{element.name}", x, element)

    def _wide(self, x: str, output: str = "") -> str:
        """The decoder's element type -> float32."""
        is_wide = self._element is FP32
        return x if is_wide else self._graph.cast(output or f"{x}.float32", x, FP32)
