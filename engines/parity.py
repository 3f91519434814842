"""One sampling step in torch from a file of weights: the independent answer for `verify --against`.

Shares nothing with export but the weights: the model is `calibrate.dit`, guidance and update are
written out here. Source: as `calibrate.dit` and `runtime.samplers`. Needs the extra `calibrate`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vq4dit.errors import ArtifactError, BackendUnavailable
from vq4dit.runtime.session import Floats, StepInputs
from vq4dit.weight_source import WeightSource

from .manifest import Manifest


def reference_step(
    source: WeightSource, manifest: Manifest, inputs: StepInputs
) -> tuple[Floats, Floats]:
    """latent_out and x_start, (N, C, H, W) float32 each, of one step with decoded weights.

    Raises:
        ArtifactError: the source's model is not the engine's.
        BackendUnavailable: torch is not installed.
    """
    if source.config != manifest.model:
        raise ArtifactError(
            f"the engine's model is {manifest.model}, the given file's is {source.config}; "
            "give the file that the engine was built from"
        )
    labelled, null = _model_outputs(source, inputs)
    channels, guided = source.config.in_channels, manifest.cfg_channels
    eps = labelled[:, :channels].copy()
    if manifest.cfg:
        scale = inputs.cfg_scale[:, None, None, None]
        eps[:, :guided] = null[:, :guided] + scale * (eps[:, :guided] - null[:, :guided])
    one = np.float32(1)
    fraction = np.zeros_like(eps)
    if source.config.learn_sigma:
        fraction = (labelled[:, channels:] + one) / np.float32(2)
    c = inputs.coefficients.T.reshape(8, -1, 1, 1, 1)
    deviation = np.exp((fraction * c[4] + (one - fraction) * c[5]) / np.float32(2))
    latent_out = c[0] * inputs.latent + c[1] * eps + c[2] * inputs.history
    return latent_out + c[3] * deviation * inputs.noise, c[6] * inputs.latent + c[7] * eps


def _model_outputs(source: WeightSource, inputs: StepInputs) -> tuple[Floats, Floats]:
    """The model with the labels and with the null label, (N, out, H, W) each."""
    torch = _import_torch()
    from vq4dit.calibrate.dit import DiT

    model = DiT(source.config)
    model.load_state_dict(_state_dict(source, torch))
    model.eval()
    latent, timestep = torch.from_numpy(inputs.latent), torch.from_numpy(inputs.timestep)
    label = torch.from_numpy(inputs.label)
    null = torch.full_like(label, source.config.null_label)
    with torch.inference_mode():
        outputs = [model(latent, timestep, y).numpy() for y in (label, null)]
    return outputs[0], outputs[1]


def _state_dict(source: WeightSource, torch: Any) -> dict[str, Any]:
    """All tensors in float32, quantized weights decoded."""
    tensors = {}
    for name in source.config.tensor_shapes():
        layer = None
        layer_name, _, kind = name.rpartition(".")
        if layer_name in source.config.block_linear_shapes():
            layer = source.quantized_layer(layer_name)
        if layer is None:
            value = source.tensor(name)
        else:
            value = layer.weight() if kind == "weight" else layer.bias
        tensors[name] = torch.from_numpy(np.array(value, np.float32))
    return tensors


def _import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise BackendUnavailable(
            "comparing with a file of weights needs torch; install it with: "
            "pip install 'vq4dit[calibrate]'"
        ) from None
    return torch
