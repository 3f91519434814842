"""The implementations of a whole step: each loads a step model and runs it once per call.

A loader takes (model path, threads) and gives a function from the step's inputs, a dict of arrays
as in the step model's interface, to latent_out. Packages are imported by the loader, so that a
process holds only what its own implementation needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Step = Callable[[dict[str, np.ndarray]], np.ndarray]
Loader = Callable[[Path, int], Step]


def vq4dit(accuracy: str) -> Loader:
    """Our engine directory, checked as `Pipeline` checks it; low_memory leaves the decoder out."""

    def load(engine: Path, threads: int) -> Step:
        from vq4dit.runtime.pipeline import Pipeline
        from vq4dit.runtime.session import StepInputs

        pipeline = Pipeline(engine, accuracy=accuracy, threads=threads, low_memory=True)
        return lambda inputs: pipeline.sessions.run_step(StepInputs(**inputs))[0]

    return load


def onnxruntime_step(model: Path, threads: int) -> Step:
    """A step model without our ops on ONNX Runtime, with its default options."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(_step_model(model)), options, providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]
    return lambda inputs: session.run(["latent_out"], {name: inputs[name] for name in names})[0]


def openvino_step(model: Path, threads: int) -> Step:
    """A step model in OpenVINO (ONNX, or its own format), latency hint, float32 activations."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import openvino

    core = openvino.Core()
    options: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_MMAP": "YES",
    }
    compiled = core.compile_model(core.read_model(_step_model(model)), "CPU", options)
    request = compiled.create_infer_request()
    names = [i.get_any_name() for i in compiled.inputs]

    def step(inputs: dict[str, np.ndarray]) -> np.ndarray:
        request.infer({name: inputs[name] for name in names})
        return request.get_tensor("latent_out").data.copy()

    return step


def _step_model(path: Path) -> Path:
    """The step model itself: in an engine directory it is a file."""
    return path / "step.onnx" if path.is_dir() else path


#: Name -> loader, in the order of the tables; the first dense one is the baseline.
IMPLEMENTATIONS: dict[str, Loader] = {
    "vq4dit-fast": vq4dit("fast"),
    "vq4dit-exact": vq4dit("exact"),
    "vq4dit-int8": vq4dit("int8"),
    "ort-fp32": onnxruntime_step,
    "ort-int8-dynamic": onnxruntime_step,
    "openvino-fp32": openvino_step,
    "openvino-int8": openvino_step,
}
#: Name -> the implementation that its error is measured against: the same weights, exact.
REFERENCES = {
    "vq4dit-fast": "vq4dit-exact",
    "vq4dit-int8": "vq4dit-exact",
    "ort-int8-dynamic": "ort-fp32",
    "openvino-fp32": "ort-fp32",
    "openvino-int8": "ort-fp32",
}


def step_inputs(seed: int = 0) -> dict[str, np.ndarray]:
    """One sample at t = 500, guidance 4; the coefficients make latent_out the guided noise."""
    rng = np.random.default_rng(seed)
    latent, noise, history = (
        rng.standard_normal((1, 4, 32, 32)).astype(np.float32) for _ in range(3)
    )
    return {
        "latent": latent,
        "timestep": np.array([500], np.float32),
        "label": np.array([207], np.int64),
        "cfg_scale": np.array([4], np.float32),
        "coefficients": np.array([[0, 1, 0, 0, 0, 0, 1, 0]], np.float32),
        "noise": noise,
        "history": history,
    }
