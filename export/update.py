"""Guidance and the sampler's update as an ONNX graph: from the model's output to the next latent.

Source: classifier-free guidance, Ho & Salimans 2022 (arXiv 2207.12598), equation 6, on the first
channels only as in the public DiT sampler; learned-range variance, Nichol & Dhariwal 2021
(arXiv 2102.09672), equation 15. Which sampler it is, is in the coefficients alone.
"""

from __future__ import annotations

import numpy as np

from vq4dit.model_config import ModelConfig

from .graph import GraphBuilder

#: Columns of the input `coefficients`; see `add_update`.
NUM_COEFFICIENTS = 8


def add_guidance(
    graph: GraphBuilder, config: ModelConfig, output: str, cfg_scale: str, *, cfg_channels: int
) -> tuple[str, str | None]:
    """Guide eps: the doubled output (2N, out, H, W), cfg_scale (N) -> eps (N, C, H, W), v or None.

    The first cfg_channels channels become null + cfg_scale * (labelled - null). The other channels
    and the variance v are those of the labelled half.
    """
    size = config.input_size
    halves = graph.reshape(
        "guidance.halves", output, [2, -1, config.out_channels, size, size]
    )  # (2, N, out, H, W)
    labelled, null = (
        graph.op(f"guidance.{name}", "Gather", halves, graph.constant(row), axis=0)
        for row, name in enumerate(("labelled", "null"))
    )
    kept = config.out_channels - cfg_channels
    rest: list[str] = []
    if kept:
        sizes = [cfg_channels, kept]
        labelled, *rest = graph.split("guidance.labelled_parts", labelled, sizes, axis=1)
        null = graph.split("guidance.null_parts", null, sizes, axis=1)[0]
    scale = _per_sample(graph, "guidance.scale", cfg_scale, [1, 2, 3])
    difference = graph.op("guidance.difference", "Sub", labelled, null)
    scaled = graph.op("guidance.scaled", "Mul", difference, scale)
    guided = graph.op("guidance.guided", "Add", null, scaled)
    whole = graph.op("guidance", "Concat", guided, *rest, axis=1)  # (N, out, H, W)
    return split_output(graph, config, whole)


def split_output(graph: GraphBuilder, config: ModelConfig, output: str) -> tuple[str, str | None]:
    """The model's output (N, out, H, W) -> eps (N, C, H, W), v; no learned variance: None."""
    if not config.learn_sigma:
        return output, None
    eps, variance = graph.split("model_output.parts", output, [config.in_channels] * 2, axis=1)
    return eps, variance


def add_update(
    graph: GraphBuilder,
    *,
    latent: str,
    noise: str,
    history: str,
    coefficients: str,
    eps: str,
    variance: str | None,
) -> None:
    """Add the outputs latent_out and x_start, (N, C, H, W) each.

    With c0..c7 the columns of coefficients (N, 8) and f = (v + 1) / 2, or 0 without v:
    latent_out = c0 latent + c1 eps + c2 history + c3 exp((f c4 + (1 - f) c5) / 2) noise,
    x_start = c6 latent + c7 eps.
    """
    wide = _per_sample(graph, "update.coefficients", coefficients, [2, 3])  # (N, 8, 1, 1)
    c = graph.split("update.c", wide, [1] * NUM_COEFFICIENTS, axis=1)
    half = graph.constant(0.5, np.float32)
    log_variance = c[5]
    if variance is not None:
        one = graph.constant(1, np.float32)
        shifted = graph.op("update.v_plus_1", "Add", variance, one)
        f = graph.op("update.f", "Mul", shifted, half)
        rest = graph.op("update.1_minus_f", "Sub", one, f)
        log_variance = graph.op(
            "update.log_variance",
            "Add",
            graph.op("update.f_c4", "Mul", f, c[4]),
            graph.op("update.f_c5", "Mul", rest, c[5]),
        )
    deviation = graph.op(
        "update.deviation", "Exp", graph.op("update.log_deviation", "Mul", log_variance, half)
    )
    factor = graph.op("update.noise_factor", "Mul", c[3], deviation)
    terms = [
        graph.op("update.term_latent", "Mul", c[0], latent),
        graph.op("update.term_eps", "Mul", c[1], eps),
        graph.op("update.term_history", "Mul", c[2], history),
        graph.op("update.term_noise", "Mul", factor, noise),
    ]
    first = graph.op("update.sum_1", "Add", terms[0], terms[1])
    second = graph.op("update.sum_2", "Add", first, terms[2])
    graph.op("latent_out", "Add", second, terms[3])
    graph.op(
        "x_start",
        "Add",
        graph.op("update.start_latent", "Mul", c[6], latent),
        graph.op("update.start_eps", "Mul", c[7], eps),
    )


def _per_sample(graph: GraphBuilder, name: str, x: str, axes: list[int]) -> str:
    """Append axes of length 1, so that one value per sample meets (N, C, H, W)."""
    return graph.op(name, "Unsqueeze", x, graph.constant(axes))
