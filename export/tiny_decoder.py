"""The decoder of AutoencoderTiny as nodes: convolutions and ReLU, far less work than AutoencoderKL.

Source: TAESD (Ollin Boer Bohan), as diffusers' AutoencoderTiny has it: layer names and order,
3 tanh(x / 3) in front, pictures of 0..1 brought to -1..1 at the end.
"""

from __future__ import annotations

import numpy as np

from .element_types import FP32, ElementType
from .graph import GraphBuilder
from .vae_config import TinyConfig
from .vae_source import VaeSource

#: Latents beyond about this are pressed together before the first layer.
_LATENT_MAGNITUDE = 3.0


class TinyDecoder:
    """Adds the decoder to a graph; node names are the module names of the state dict.

    Args:
        graph: where to.
        source: the VAE, opened.
        config: its configuration.
        latent_size: H and W of the latent.
        element: type in which convolutions are computed; inputs and outputs are float32.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        source: VaeSource,
        config: TinyConfig,
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
        x = graph.input("latent", shape)
        if scaling_factor != 1.0:
            x = graph.op("unscaled", "Div", x, graph.constant(scaling_factor, np.float32))
        if config.shift_factor:
            x = graph.op("shifted", "Add", x, graph.constant(config.shift_factor, np.float32))
        magnitude = graph.constant(_LATENT_MAGNITUDE, np.float32)
        x = graph.op("clamp.small", "Div", x, magnitude)
        x = graph.op("clamp.tanh", "Tanh", x)
        x = graph.op("clamp", "Mul", x, magnitude)
        if self._element is not FP32:
            x = graph.cast("clamp.narrow", x, self._element)
        x = self._layers(x)
        if self._element is not FP32:
            x = graph.cast("decoder.wide", x, FP32)
        x = graph.op("doubled", "Mul", x, graph.constant(2.0, np.float32))
        graph.op("image", "Sub", x, graph.constant(1.0, np.float32))
        graph.output("image", ["N", config.out_channels, self.size, self.size])

    def _layers(self, x: str) -> str:
        """A convolution, then per stage: blocks, upsampling in all but the last, convolution."""
        config, graph = self._config, self._graph
        width, layer = config.block_out_channels[0], 2
        x = self._conv("decoder.layers.0", x, config.latent_channels, width)
        x = graph.op("decoder.layers.1", "Relu", x)
        last = len(config.num_blocks) - 1
        for stage, num_blocks in enumerate(config.num_blocks):
            for _ in range(num_blocks):
                x = self._block(f"decoder.layers.{layer}", x, width)
                layer += 1
            if stage < last:
                x = self._upsample(f"decoder.layers.{layer}", x)
                layer += 1
            out = config.out_channels if stage == last else width
            x = self._conv(f"decoder.layers.{layer}", x, width, out, bias=stage == last)
            layer += 1
        return x

    def _block(self, name: str, x: str, width: int) -> str:
        """Three convolutions with ReLU between them, added to x, ReLU."""
        h = x
        for index in (0, 2, 4):
            h = self._conv(f"{name}.conv.{index}", h, width, width)
            if index < 4:
                h = self._graph.op(f"{name}.conv.{index + 1}", "Relu", h)
        added = self._graph.op(f"{name}.added", "Add", h, x)
        return self._graph.op(name, "Relu", added)

    def _upsample(self, name: str, x: str) -> str:
        """Each pixel repeated."""
        factor = self._config.upsampling_scaling_factor
        self.size *= factor
        return self._graph.op(
            name, "Resize", x, "", self._graph.constant([1, 1, factor, factor], np.float32),
            mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric",
        )  # fmt: skip

    def _conv(self, name: str, x: str, channels: int, out: int, *, bias: bool = True) -> str:
        """A 3x3 convolution that keeps the size."""
        graph = self._graph
        weights = [self._weight(f"{name}.weight", (out, channels, 3, 3))]
        if bias:
            weights.append(self._weight(f"{name}.bias", (out,)))
        return graph.op(name, "Conv", x, *weights, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        array = self._source.tensor(name, shape).astype(self._element.numpy_dtype, copy=False)
        return self._graph.initializer(name, array)
