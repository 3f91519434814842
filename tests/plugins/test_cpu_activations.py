"""Accuracy of the CPU library on what the demo model's layers really see.

Random numbers hide what activations have: channels of very different size, post-GELU rows that are
nearly zero, modulated LayerNorm. Codebooks are K-Means ones, as every calibration starts from.
"""

from __future__ import annotations

import numpy as np
import pytest
import tolerances
from op_models import RandomLayer, relative_error, require_ort_library, run_gemm

torch = pytest.importorskip("torch")

from vq4dit import demo  # noqa: E402
from vq4dit.calibrate.checkpoint import Checkpoint  # noqa: E402
from vq4dit.calibrate.codebook import assign, fit_codebook  # noqa: E402
from vq4dit.calibrate.dit import DiT  # noqa: E402
from vq4dit.calibrate.start import layer_spec  # noqa: E402
from vq4dit.calibrate.trajectory import sample_trajectories  # noqa: E402
from vq4dit.plugins.packing import column_order, pack_assignments  # noqa: E402
from vq4dit.plugins.reference import codebook_gemm  # noqa: E402

require_ort_library()
pytestmark = pytest.mark.ort

TOLERANCE = {
    "fast": tolerances.FAST_ON_DEMO_ACTIVATIONS,
    "exact": tolerances.FP32_RELATIVE,
}


@pytest.fixture(scope="module")
def layers() -> dict[str, tuple[RandomLayer, np.ndarray]]:
    """Every linear of the demo model's blocks at 2 bits, and its inputs (rows, I) on a trajectory.

    From noise to picture by three DDIM steps with guidance.
    """
    checkpoint = Checkpoint(demo.checkpoint_path())
    model = DiT(checkpoint.config).requires_grad_(False)
    model.load_state_dict(checkpoint.state_dict())
    linears = {
        name: module
        for name, module in model.blocks.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    inputs: dict[str, list[torch.Tensor]] = {name: [] for name in linears}
    for name, linear in linears.items():
        linear.register_forward_pre_hook(
            lambda _module, args, kept=inputs[name]: kept.append(args[0].flatten(0, -2))
        )
    sample_trajectories(model, num_samples=3, num_steps=3, guidance_range=(2.0, 2.0), seed=0)
    return {
        name: (_kmeans_layer(name, linear), torch.cat(inputs[name]).numpy())
        for name, linear in linears.items()
    }


def _kmeans_layer(name: str, linear: torch.nn.Linear) -> RandomLayer:
    layout = layer_spec(name, tuple(linear.weight.shape), bits=2).layout
    order = torch.from_numpy(column_order(layout))
    sub_vectors = linear.weight[:, order].reshape(-1, layout.sub_vector_len)
    codebook = fit_codebook(sub_vectors, layout.codebook_size, iterations=2, sample_size=4096)
    indices, _ = assign(sub_vectors, codebook)
    packed = pack_assignments(indices.reshape(linear.out_features, -1).numpy(), layout)
    return RandomLayer(
        layout=layout,
        codebook=codebook[None].numpy(),
        assignments=packed,
        bias=linear.bias.numpy(),
    )


@pytest.mark.parametrize("accuracy", TOLERANCE)
def test_every_layer_of_the_demo_model(layers, accuracy):
    errors = {}
    for name, (layer, x) in layers.items():
        found = run_gemm(layer, x, accuracy=accuracy)
        expected = codebook_gemm(
            x.astype(np.float64), layer.codebook, layer.assignments, layer.bias, layout=layer.layout
        )
        errors[name] = relative_error(found, expected)
    assert len(errors) == 8 * 5
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= TOLERANCE[accuracy], (worst, errors[worst])


@pytest.mark.parametrize("kind", ["student_t3", "one_channel_x30"])
def test_heavy_tails_on_real_codebooks(layers, kind):
    rng = np.random.default_rng(5)
    for name, (layer, x) in layers.items():
        if not name.startswith("0."):
            continue
        if kind == "student_t3":
            x = rng.standard_t(3, x.shape).astype(np.float32)
        else:
            x = x * np.where(np.arange(x.shape[1]) == 5, 30, 1).astype(np.float32)
        found = run_gemm(layer, x, accuracy="fast")
        expected = codebook_gemm(
            x.astype(np.float64), layer.codebook, layer.assignments, layer.bias, layout=layer.layout
        )
        error = relative_error(found, expected)
        assert error <= tolerances.FAST_RELATIVE_PER_ROW_SCALE, name
