"""The step model: one sampling step of every sample in the batch, as one ONNX file.

| tensor | shape | dtype |
|---|---|---|
| latent, noise, history | (N, C, H, W) | float32 |
| timestep, cfg_scale | (N) | float32 |
| label | (N) | int64, 0..num_classes-1 |
| coefficients | (N, 8) | float32 |
| -> latent_out, x_start | (N, C, H, W) | float32 |

N is dynamic and a row's arithmetic does not look at other rows. The graph is written directly from
the model's configuration and streams the weights, so that the bytes are the same each time and no
model is in memory as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, inliner

from vq4dit.errors import OptionError
from vq4dit.model_config import ModelConfig
from vq4dit.plugins.layout import AssignmentLayout
from vq4dit.plugins.schema import DOMAIN
from vq4dit.weight_source import WeightSource

from .element_types import FP32, element_type
from .external_data import ExternalData, write_model
from .graph import GraphBuilder
from .linear_ways import ChooseWay
from .linears import FORMS, Linears
from .network import Network
from .update import NUM_COEFFICIENTS, add_guidance, add_update, split_output

STEP_MODEL_NAME = "step.onnx"
STEP_DATA_NAME = "step.onnx.data"


@dataclass(frozen=True, kw_only=True)
class StepModel:
    """A step model on disk: `path`, its weights beside it in `data_path`, and how it was built.

    `decoded`: layers that are decoded before a product, and bytes of each such weight, a temporary.
    """

    path: Path
    data_path: Path
    form: str
    cfg: bool
    cfg_channels: int
    num_codebook_nodes: int
    num_bytes: int
    decoded: dict[str, int]

    @property
    def guided_channels(self) -> int:
        """Channels of eps that are guided, 0 without guidance."""
        return self.cfg_channels if self.cfg else 0


def build_step_model(
    source: WeightSource,
    directory: Path,
    *,
    form: str = "function",
    cfg: bool = True,
    cfg_channels: int | None = 3,
    assignment_layout: AssignmentLayout = AssignmentLayout.ROWS,
    fuse_adaln: bool = True,
    fuse_attention: bool = False,
    weights: str = "fp32",
    choose_way: ChooseWay | None = None,
) -> StepModel:
    """Write `step.onnx` and `step.onnx.data` into a directory, which is made if need be.

    Args:
        source: the weights; quantized layers become nodes of domain `vq4dit`, dense ones MatMul.
        directory: files of these names are replaced, others left alone.
        form: "function" (bodies in the file), "inlined" (bodies in place of the nodes) or "plugin"
            (bare nodes for a runtime that has the ops).
        cfg: double the batch inside for classifier-free guidance. Without it `cfg_scale` stays an
            input, so that every step model is fed alike, and is not read.
        cfg_channels: channels of eps that are guided, from the first; None means all. The learned
            variance is never guided.
        assignment_layout: order of the packed bytes that the target reads.
        fuse_adaln: write the adaLN linears of all blocks as one node where their sizes allow it.
            Function bodies then decode all of them at once: 0.9 GB for DiT-XL/2.
        fuse_attention: write attention as ONNX Runtime's MultiHeadAttention, whose CPU kernel never
            holds a whole (T, T) matrix of weights: for ONNX Runtime alone, and float32.
        weights: element type of weights and arithmetic, "fp32", "fp16" or "bf16"; see
            `element_types`.
        choose_way: whether a quantized linear is gathered or decoded before a product, see
            `linear_ways`; None gathers all.
    Raises:
        OptionError: an option is out of range.   ArtifactError: the source lacks a tensor.
        OSError: a file cannot be written; nothing is left under the final names by this call.
    """
    config = source.config
    channels = _checked_options(config, form=form, cfg_channels=cfg_channels)
    element = element_type(weights)
    if fuse_attention and element is not FP32:
        raise OptionError(f"weights are {weights}, needed fp32 for fused attention")
    directory.mkdir(parents=True, exist_ok=True)
    with ExternalData(directory, STEP_DATA_NAME) as data:
        graph = GraphBuilder(data)
        linears = Linears(
            graph, source, form=form, assignment_layout=assignment_layout, element=element,
            rows_per_sample=2 if cfg else 1, choose_way=choose_way,
        )  # fmt: skip
        network = Network(
            graph, linears, source,
            is_doubled=cfg, fuse_adaln=fuse_adaln, fuse_attention=fuse_attention,
        )  # fmt: skip
        _add_step(graph, network, config, cfg=cfg, cfg_channels=channels)
        model = graph.model("vq4dit_step")
        num_nodes = sum(node.domain == DOMAIN for node in model.graph.node)
        if form == "inlined":
            model = inline_functions(model)
        data.commit()
        write_model(model, directory / STEP_MODEL_NAME)
        num_bytes = data.num_bytes + (directory / STEP_MODEL_NAME).stat().st_size
    return StepModel(
        path=directory / STEP_MODEL_NAME,
        data_path=directory / STEP_DATA_NAME,
        form=form,
        cfg=cfg,
        cfg_channels=channels,
        num_codebook_nodes=num_nodes,
        num_bytes=num_bytes,
        decoded=linears.decoded,
    )


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put the function bodies in place of the nodes; each new node is named like its output."""
    inlined = inliner.inline_local_functions(model)
    for node in inlined.graph.node:
        node.name = node.name or node.output[0]
    kept = [opset for opset in inlined.opset_import if opset.domain != DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    return inlined


def _checked_options(config: ModelConfig, *, form: str, cfg_channels: int | None) -> int:
    """Refuse options out of range; returns the number of guided channels, at most C."""
    if form not in FORMS:
        raise OptionError(f"form is {form!r}, needed one of {', '.join(FORMS)}")
    if cfg_channels is None:
        return config.in_channels
    if cfg_channels < 1:
        raise OptionError(f"cfg_channels is {cfg_channels}, needed 1 or more, or all")
    return min(cfg_channels, config.in_channels)


def _add_step(
    graph: GraphBuilder, network: Network, config: ModelConfig, *, cfg: bool, cfg_channels: int
) -> None:
    """Inputs, network, guidance, update and outputs."""
    image: list[int | str] = ["N", config.in_channels, config.input_size, config.input_size]
    latent, noise, history = (graph.input(n, image) for n in ("latent", "noise", "history"))
    timestep = graph.input("timestep", ["N"])
    label = graph.input("label", ["N"], TensorProto.INT64)
    cfg_scale = graph.input("cfg_scale", ["N"])
    coefficients = graph.input("coefficients", ["N", NUM_COEFFICIENTS])
    output = network.add(latent, timestep, label)
    if cfg:
        eps, variance = add_guidance(graph, config, output, cfg_scale, cfg_channels=cfg_channels)
    else:
        eps, variance = split_output(graph, config, output)
    add_update(
        graph, latent=latent, noise=noise, history=history, coefficients=coefficients, eps=eps,
        variance=variance,
    )  # fmt: skip
    for name in ("latent_out", "x_start"):
        graph.output(name, image)
