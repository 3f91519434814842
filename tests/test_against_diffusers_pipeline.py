"""The whole way on one folder: the pictures of diffusers' DiTPipeline and ours, from equal latents.

Its embedder is given the frequencies of the original model (docs/checkpoints.md tells why); all
else is diffusers as it is: guidance on all channels, its schedulers, its decoders.
"""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel, DPMSolverMultistepScheduler
from support_vae import make_tiny_vae, make_vae

from vq4dit.calibrate.source import open_weights
from vq4dit.engines.build import build_engine
from vq4dit.runtime.pipeline import Pipeline
from vq4dit.runtime.selftest import IMAGE_LIMIT

pytestmark = pytest.mark.ort

LABELS = [7, 999, 0]
CFG_SCALE = 2.5
SIZE = 8


def make_pipeline(folder, make):
    """A random DiTPipeline, saved; all 1,000 classes, since its null label is always 1000."""
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2,
        sample_size=SIZE, patch_size=2, num_embeds_ada_norm=1000,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.1 if name.endswith("bias") else parameter[0].numel() ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape))
        embedder = model.transformer_blocks[0].norm1.emb.state_dict()
        for block in model.transformer_blocks:
            block.norm1.emb.load_state_dict(embedder)
            block.norm1.emb.time_proj.downscale_freq_shift = 0
    vae = make(folder / "made")
    scheduler = DDIMScheduler(clip_sample=False, beta_start=1e-4, beta_end=0.02)
    pipeline = DiTPipeline(transformer=model, vae=vae, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder / "pipeline")
    return pipeline


@pytest.fixture(scope="module", params=[make_vae, make_tiny_vae], ids=["kl", "tiny"])
def both(request, tmp_path_factory):
    """Their pipeline, and our engine of the same folder."""
    folder = tmp_path_factory.mktemp("diffusers")
    theirs = make_pipeline(folder, request.param)
    build_engine(
        open_weights(folder / "pipeline"), folder / "engine", target="onnx", weights="fp32",
        vae=folder / "pipeline" / "vae", cfg_channels=None,
    )  # fmt: skip
    with Pipeline(folder / "engine", threads=1, verify=True) as ours:
        yield theirs, ours


def their_pictures(monkeypatch, pipeline, latents, steps):
    monkeypatch.setattr(
        "diffusers.pipelines.dit.pipeline_dit.randn_tensor",
        lambda *args, **kwargs: torch.from_numpy(latents),
    )
    images = pipeline(LABELS, guidance_scale=CFG_SCALE, num_inference_steps=steps,
                      output_type="np").images  # fmt: skip
    return (255 * images).round().astype(int)


def assert_equal_pictures(found, wanted):
    assert found.shape == wanted.shape and len(np.unique(wanted)) > 100
    assert np.abs(found.astype(int) - wanted).max() <= IMAGE_LIMIT


@pytest.mark.parametrize("steps", [2, 10, 40])
def test_ddim(monkeypatch, both, steps):
    theirs, ours = both
    latents = np.random.default_rng(steps).standard_normal((3, 4, SIZE, SIZE)).astype(np.float32)
    wanted = their_pictures(monkeypatch, theirs, latents, steps)
    found = ours(LABELS, steps=steps, cfg_scale=CFG_SCALE, latents=latents, spacing="leading")
    assert_equal_pictures(found, wanted)


@pytest.mark.parametrize("steps", [3, 20])
def test_dpm_solver(monkeypatch, both, steps):
    theirs, ours = both
    latents = np.random.default_rng(steps).standard_normal((3, 4, SIZE, SIZE)).astype(np.float32)
    scheduler = DPMSolverMultistepScheduler.from_config(theirs.scheduler.config)
    monkeypatch.setattr(theirs, "scheduler", scheduler)
    # torch tells NumPy of a copy keyword that it will have: no matter here.
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.numpy()
    wanted = their_pictures(monkeypatch, theirs, latents, steps)
    found = ours(
        LABELS, steps=scheduler.timesteps.tolist(), cfg_scale=CFG_SCALE, latents=latents,
        sampler="dpm-solver++",
    )  # fmt: skip
    assert_equal_pictures(found, wanted)
