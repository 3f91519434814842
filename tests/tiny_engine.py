"""A hand-made engine directory for tests: a toy step model with the real inputs and outputs."""

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
from safetensors.numpy import save_file

from vq4dit.engine_files import file_entry
from vq4dit.engines.manifest import MANIFEST_NAME, Manifest, TrainingSchedule, manifest_to_json
from vq4dit.model_config import ModelConfig
from vq4dit.runtime.ort_session import OrtDecoderSession, OrtStepSession
from vq4dit.runtime.selftest import selftest_inputs, selftest_tensors
from vq4dit.runtime.session import StepInputs

CONFIG = ModelConfig(
    input_size=8, patch_size=2, in_channels=4, hidden_size=16, depth=1, num_heads=2, num_classes=10
)
NAMES = tuple(f"class {i}" for i in range(CONFIG.num_classes))
EMBEDDING = np.linspace(-1, 1, 44, dtype=np.float32).reshape(11, 4, 1, 1)
GUIDED = np.array([True, True, True, False]).reshape(1, 4, 1, 1)

_STEP = """
<ir_version: 10, opset_import: ["" : 20]>
step (float[N,4,8,8] latent, float[N] timestep, int64[N] label, float[N] cfg_scale,
      float[N,8] coefficients, float[N,4,8,8] noise, float[N,4,8,8] history)
  => (float[N,4,8,8] latent_out, float[N,4,8,8] x_start)
{
  conditioned = Gather (embedding, label)
  column = Constant <value_ints: ints = [-1, 1, 1, 1]> ()
  t = Reshape (timestep, column)
  scale = Reshape (cfg_scale, column)
  thousand = Constant <value_float: float = 1000.0> ()
  fraction = Div (t, thousand)
  shifted = Add (latent, fraction)
  in_c = Add (shifted, conditioned)
  in_u = Add (shifted, null_embedding)
  eps_c = Tanh (in_c)
  eps_u = Tanh (in_u)
  difference = Sub (eps_c, eps_u)
  scaled = Mul (scale, difference)
  all_guided = Add (eps_u, scaled)
  eps = Where (guided, all_guided, eps_c)
  v = Sin (eps_c)
  one = Constant <value_float: float = 1.0> ()
  half = Constant <value_float: float = 0.5> ()
  v_one = Add (v, one)
  f = Mul (v_one, half)
  g = Sub (one, f)
  table = Unsqueeze (coefficients, axes)
  c0, c1, c2, c3, c4, c5, c6, c7 = Split <axis: int = 1, num_outputs: int = 8> (table)
  fc4 = Mul (f, c4)
  gc5 = Mul (g, c5)
  log_variance = Add (fc4, gc5)
  half_log = Mul (half, log_variance)
  deviation = Exp (half_log)
  c3_noise = Mul (c3, noise)
  p3 = Mul (deviation, c3_noise)
  p0 = Mul (c0, latent)
  p1 = Mul (c1, eps)
  p2 = Mul (c2, history)
  p6 = Mul (c6, latent)
  p7 = Mul (c7, eps)
  latent_out = Sum (p0, p1, p2, p3)
  x_start = Add (p6, p7)
}
"""

_DECODER = """
<ir_version: 10, opset_import: ["" : 20]>
decoder (float[N,4,8,8] latent) => (float[N,1,16,16] image)
{
  pixels = DepthToSpace <blocksize: int = 2> (latent)
  image = Tanh (pixels)
}
"""


def toy_step(inputs: StepInputs) -> tuple[np.ndarray, np.ndarray]:
    """The toy step model in NumPy."""
    eps, f = toy_eps(inputs.latent, inputs.timestep, inputs.label, inputs.cfg_scale)
    c = inputs.coefficients.T[:, :, None, None, None]
    deviation = np.exp(0.5 * (f * c[4] + (1 - f) * c[5]))
    latent_out = c[0] * inputs.latent + c[1] * eps + c[2] * inputs.history
    return latent_out + c[3] * deviation * inputs.noise, c[6] * inputs.latent + c[7] * eps


def toy_eps(latent, timestep, label, cfg_scale):
    """Guided eps and f of the toy model, broadcast over samples; dtype of latent."""
    shifted = latent + np.asarray(timestep)[:, None, None, None] / 1000
    eps_c, eps_u = np.tanh(shifted + EMBEDDING[label]), np.tanh(shifted + EMBEDDING[10])
    guided = eps_u + np.asarray(cfg_scale)[:, None, None, None] * (eps_c - eps_u)
    return np.where(GUIDED, guided, eps_c), (np.sin(eps_c) + 1) / 2


def write_step(path: Path) -> None:
    """Write the toy step model."""
    model = onnx.parser.parse_model(_STEP)
    initializers = {
        "embedding": EMBEDDING,
        "null_embedding": EMBEDDING[10:],
        "guided": GUIDED,
        "axes": np.array([2, 3]),
    }
    for name, value in initializers.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def write_tiny_engine(directory: Path, *, decoder: bool = True, cfg: bool = True) -> Manifest:
    """Write a whole engine directory for target onnx and return its manifest."""
    directory.mkdir()
    step_path, decoder_path = directory / "step.onnx", directory / "decoder.onnx"
    write_step(step_path)
    files = {"step": file_entry(step_path)}
    decoder_session = None
    if decoder:
        onnx.save(onnx.parser.parse_model(_DECODER), decoder_path)
        files["decoder"] = file_entry(decoder_path)
        decoder_session = OrtDecoderSession(decoder_path, threads=1)
    manifest = Manifest(
        target="onnx",
        form="function",
        model=CONFIG,
        label_names=NAMES,
        schedule=TrainingSchedule(),
        latent_shape=(4, 8, 8),
        image_shape=(1, 16, 16) if decoder else (4, 8, 8),
        batch_min=1,
        batch_max=None,
        compute_dtype="float32",
        label_dtype="int64",
        cfg=cfg,
        cfg_channels=3,
        latent_scaling_factor=1.0,
        files=files,
        bits_per_weight={},
        source_sha256="0" * 64,
        tool_versions={},
    )
    session = OrtStepSession(step_path, library=None, threads=1)
    tensors = selftest_tensors(selftest_inputs(manifest), session, decoder_session)
    save_file(tensors, directory / "selftest.safetensors")
    files["selftest"] = file_entry(directory / "selftest.safetensors")
    (directory / MANIFEST_NAME).write_bytes(manifest_to_json(manifest))
    return manifest
