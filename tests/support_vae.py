"""Random VAEs in diffusers' folders, and diffusers' own decoding of latents."""

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

WEIGHTS = "diffusion_pytorch_model.safetensors"


def make_vae(folder, widths=(8, 16), seed=0, **options):
    """A random AutoencoderKL, saved; norms are moved off one and zero, so that they count."""
    torch.manual_seed(seed)
    options = {"layers_per_block": 1, "norm_num_groups": 4, **options}
    vae = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        **options,
    ).eval()
    for name, parameter in vae.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.3)
    vae.save_pretrained(folder)
    return vae


def decode(vae, latent):
    config = vae.config
    with torch.no_grad():
        code = torch.from_numpy(latent) / config.scaling_factor + (config.shift_factor or 0)
        return vae.decode(code).sample.numpy()


def random_latent(vae, size, num_samples=2):
    shape = (num_samples, vae.config.latent_channels, size, size)
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def make_tiny_vae(folder, widths=(8, 8, 8), num_blocks=(2, 1, 1), seed=0, **options):
    """A random AutoencoderTiny, saved."""
    torch.manual_seed(seed)
    vae = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=num_blocks,
        num_decoder_blocks=num_blocks,
        **options,
    ).eval()
    with torch.no_grad():  # pictures that use the whole range
        vae.decoder.layers[-1].weight *= 10
        vae.decoder.layers[-1].bias += 0.5
    vae.save_pretrained(folder)
    return vae
