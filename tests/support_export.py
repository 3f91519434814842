"""Random weight sources and the torch oracle of one sampling step, for the tests of export."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vq4dit.calibrate.dit import DiT
from vq4dit.errors import ArtifactError
from vq4dit.model_config import ModelConfig
from vq4dit.plugins import CONFIGURATIONS, Layout, QuantizedLayer, default_group_order
from vq4dit.plugins.packing import pack_assignments

TINY = ModelConfig(
    input_size=8, patch_size=2, in_channels=4, hidden_size=64, depth=2, num_heads=2, num_classes=5
)


def random_layer(rng, rows, columns, bits=2, row_groups=1, codebook_size=None, sub_vector_len=None):
    """A quantized linear whose decoded weights have the usual size 1 / sqrt(columns)."""
    default_size, default_len = CONFIGURATIONS[bits]
    length = sub_vector_len or default_len
    layout = Layout(
        in_features=columns,
        codebook_size=codebook_size or default_size,
        sub_vector_len=length,
        group_order=default_group_order(columns, length),
    )
    shape = (row_groups, layout.codebook_size, length)
    indices = rng.integers(0, layout.codebook_size, (rows, layout.num_sub_vectors))
    return QuantizedLayer(
        codebook=(rng.standard_normal(shape) / np.sqrt(columns)).astype(np.float16),
        assignments=pack_assignments(indices, layout),
        bias=(0.1 * rng.standard_normal(rows)).astype(np.float32),
        layout=layout,
    )


@dataclass
class RandomSource:
    """A WeightSource in memory."""

    config: ModelConfig
    tensors: Mapping[str, np.ndarray]
    layers: Mapping[str, QuantizedLayer]
    label_names: tuple[str, ...] = ()
    latent_scaling_factor: float = 1.0
    sha256: str = "0" * 64

    def quantized_layer(self, name):
        return self.layers.get(name)

    def tensor(self, name):
        if name not in self.tensors:
            raise ArtifactError(f"tensor {name} is not there")
        return self.tensors[name]


def random_source(config=TINY, bits=2, seed=0, dense=(), row_groups=1):
    """All linears of the blocks quantized but those whose name ends in one of `dense`.

    `bits` is a number or a mapping from a part of the layer's name to a number (2 elsewhere).
    """
    rng = np.random.default_rng(seed)
    layers = {}
    for name, (rows, columns) in config.block_linear_shapes().items():
        if name.endswith(tuple(dense)) and dense:
            continue
        chosen = bits
        if isinstance(bits, Mapping):
            chosen = next((b for part, b in bits.items() if part in name), 2)
        groups = row_groups if "qkv" in name else 1
        layers[name] = random_layer(rng, rows, columns, chosen, groups)
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        if name.rsplit(".", 1)[0] not in layers:
            fan_in = max(1, int(np.prod(shape[1:])))
            tensors[name] = (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
    return RandomSource(config, tensors, layers)


def decoded(source):
    """The same weights with no layer quantized."""
    tensors = dict(source.tensors)
    for name, layer in source.layers.items():
        tensors[f"{name}.weight"] = layer.weight().astype(np.float32)
        tensors[f"{name}.bias"] = layer.bias
    return replace(source, tensors=tensors, layers={})


def step_inputs(config, num_samples, seed=1):
    """One batch of random inputs of the step model; timesteps and scales differ by sample."""
    rng = np.random.default_rng(seed)
    shape = (num_samples, config.in_channels, config.input_size, config.input_size)
    latent, noise, history = rng.standard_normal((3, *shape)).astype(np.float32)
    return {
        "latent": latent,
        "noise": noise,
        "history": history,
        "timestep": np.linspace(999, 0, num_samples).round().astype(np.float32),
        "label": rng.integers(0, config.num_classes, num_samples),
        "cfg_scale": rng.uniform(1, 4, num_samples).astype(np.float32),
        "coefficients": rng.uniform(-1, 1, (num_samples, 8)).astype(np.float32),
    }


def torch_step(source, inputs, *, cfg=True, cfg_channels=3):
    """latent_out and x_start by the public sampler's formulas, in torch with decoded weights."""
    dense = decoded(source)
    model = DiT(source.config).eval()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in dense.tensors.items()})
    x = {name: torch.from_numpy(value) for name, value in inputs.items()}
    n, channels = x["latent"].shape[:2]
    cfg_channels = min(cfg_channels, channels)  # the variance is never guided
    with torch.no_grad():
        out = model(x["latent"], x["timestep"], x["label"])
        if cfg:
            null = torch.full_like(x["label"], source.config.null_label)
            free = model(x["latent"], x["timestep"], null)[:, :cfg_channels]
            scale = x["cfg_scale"].view(n, 1, 1, 1)
            guided = free + scale * (out[:, :cfg_channels] - free)
            out = torch.cat([guided, out[:, cfg_channels:]], dim=1)
    eps = out[:, :channels]
    f = (out[:, channels:] + 1) / 2 if source.config.learn_sigma else torch.zeros_like(eps)
    c = x["coefficients"].view(n, 8, 1, 1, 1).unbind(1)
    deviation = torch.exp(0.5 * (f * c[4] + (1 - f) * c[5]))
    latent_out = c[0] * x["latent"] + c[1] * eps + c[2] * x["history"]
    latent_out = latent_out + c[3] * deviation * x["noise"]
    return latent_out.numpy(), (c[6] * x["latent"] + c[7] * eps).numpy()


def run_model(path: Path, inputs, *, library: Path | None = None, providers=None):
    """Outputs of an ONNX file in ONNX Runtime, by default without our library."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if library is not None:
        options.add_session_config_entry("vq4dit.accuracy", "exact")
        options.register_custom_ops_library(str(library))
    session = ort.InferenceSession(
        str(path), options, providers=providers or ["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


def relative_error(found, wanted):
    """Largest difference over the largest magnitude wanted."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
