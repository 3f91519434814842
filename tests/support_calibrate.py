"""Tiny random DiT checkpoints for the calibration tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from vq4dit.calibrate.artifact import Artifact
from vq4dit.calibrate.dit import DiT
from vq4dit.calibrate.layer import VQLinear
from vq4dit.calibrate.recipe import RECIPES
from vq4dit.model_config import ModelConfig
from vq4dit.plugins.layout import layout_from_bits

TINY = ModelConfig(
    input_size=4, patch_size=2, in_channels=4, hidden_size=32, depth=2, num_heads=2, num_classes=3
)

#: The default recipe, cut to what runs; and to what makes a tiny model better.
QUICK = replace(
    RECIPES["vq4dit"],
    kmeans_iterations=2,
    soft_steps=4,
    batch_size=8,
    distill_steps=4,
    distill_batch_size=8,
    num_trajectories=2,
    trajectory_steps=4,
    pool_tokens=64,
)
LONGER = replace(
    QUICK,
    kmeans_iterations=3,
    soft_steps=8,
    batch_size=16,
    distill_steps=30,
    distill_batch_size=16,
    num_trajectories=4,
    trajectory_steps=6,
    pool_tokens=256,
)


def random_state(config: ModelConfig = TINY, seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict with the public keys; every tensor is random, no gate is closed."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in config.tensor_shapes().items():
        fan_in = shape[-1] if len(shape) > 1 else 1
        scale = 0.1 if name.endswith("bias") or name == "pos_embed" else fan_in**-0.5
        state[name] = scale * torch.randn(shape, generator=generator)
    return state


def random_model(config: ModelConfig = TINY, seed: int = 0) -> DiT:
    """The model with `random_state`."""
    model = DiT(config).requires_grad_(False)
    model.load_state_dict(random_state(config, seed))
    return model


def save_checkpoint(path: Path, config: ModelConfig = TINY, seed: int = 0) -> Path:
    """Write a safetensors checkpoint that says how many heads it has."""
    metadata = {"config": f'{{"num_heads": {config.num_heads}}}', "scaling_factor": "1.0"}
    save_file(random_state(config, seed), path, metadata=metadata)
    return path


def random_vq_linear(bits=2, row_groups=3, candidates=2, rows=12, columns=64, seed=0):
    """A soft VQLinear with random codewords, candidates and ratios."""
    generator = torch.Generator().manual_seed(seed)
    layout = layout_from_bits(columns, bits)
    size, length = layout.codebook_size, layout.sub_vector_len
    shape = (rows, layout.num_sub_vectors, candidates)
    return VQLinear(
        codebook=torch.randn(row_groups, size, length, generator=generator).half().float(),
        candidates=torch.randint(size, shape, generator=generator),
        ratio_logits=torch.randn(shape, generator=generator),
        bias=torch.randn(rows, generator=generator),
        layout=layout,
    )


def quantized_model(path: Path) -> DiT:
    """The full-precision model with an artifact's weights in place."""
    artifact = Artifact(path)
    model = random_model(artifact.config)
    for name in artifact.info.layouts:
        layer, linear = artifact.quantized_layer(name), model.get_submodule(name)
        linear.weight.copy_(torch.from_numpy(layer.weight()))
        linear.bias.copy_(torch.from_numpy(layer.bias))
    return model


def output_error(path: Path, seed: int = 5) -> float:
    """Relative squared error of a quantized random model's output on random inputs."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(64, 4, 4, 4, generator=generator)
    timestep = torch.randint(1000, (64,), generator=generator).float()
    label = torch.randint(4, (64,), generator=generator)
    quantized = quantized_model(path)
    expected = random_model(quantized.config)(latent, timestep, label)
    found = quantized(latent, timestep, label)
    return float((found - expected).square().sum() / expected.square().sum())
