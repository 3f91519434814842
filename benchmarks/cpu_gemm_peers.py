"""The implementations that cpu_gemm.py measures: ours, and what others have for the same product.

Each is a function (weight W (n, k) float32, x (m, k) float32, threads) -> Run; it raises `Missing`
where its package is not installed. Peers quantize W themselves, round to nearest with the scales
their format allows, so that their error holds the loss of W as well as that of the arithmetic.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Run = Callable[[], np.ndarray]
Peer = Callable[[np.ndarray, np.ndarray, int], Run]

#: Block of MatMulNBits: the largest that divides 1152 and that ONNX Runtime has fast kernels for.
BLOCK = 128


class Missing(Exception):
    """A peer cannot run here; the text says why."""


def onnx_model(
    nodes: list[onnx.NodeProto],
    initializers: dict[str, np.ndarray],
    *domains: tuple[str, int],
    batched: bool = False,
) -> bytes:
    """A model with input x (m, k) and output y (m, n); `batched`: with an axis in front."""
    batch = ["b"] if batched else []
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [*batch, "m", "k"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [*batch, "m", "n"])
    tensors = [numpy_helper.from_array(value, name) for name, value in initializers.items()]
    graph = helper.make_graph(nodes, "gemm", [x], [y], tensors)
    opsets = [helper.make_opsetid(*domain) for domain in (("", 20), *domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def ort_run(model: bytes, x: np.ndarray, threads: int, *, library: str = "", **entries: str) -> Run:
    """One run of a model in ONNX Runtime; `entries` are session keys of domain vq4dit."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Otherwise the waiting threads of one session would eat the time of the next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in entries.items():
        options.add_session_config_entry(f"vq4dit.{key}", value)
    if library:
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})[0]


def matmul_model(weight: np.ndarray) -> bytes:
    """MatMul in float32."""
    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    return onnx_model([node], {"weight": np.ascontiguousarray(weight.T)})


def ort_fp32(weight: np.ndarray, x: np.ndarray, threads: int) -> Run:
    """ONNX Runtime's MatMul: the baseline."""
    return ort_run(matmul_model(weight), x, threads)


def ort_int8_dynamic(weight: np.ndarray, x: np.ndarray, threads: int) -> Run:
    """int8 weights per output, uint8 activations per tensor: what quantize_dynamic writes."""
    scale = np.abs(weight).max(1) / 127
    quantized = np.rint(weight / scale[:, None]).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "x_scale", "x_zero"]),
        helper.make_node("MatMulInteger", ["xq", "weight", "x_zero", "zero"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["sum_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x_scale", "scale"], ["both"]),
        helper.make_node("Mul", ["sum_float", "both"], ["y"]),
    ]
    initializers = {
        "weight": np.ascontiguousarray(quantized.T),
        "zero": np.zeros(len(weight), np.int8),
        "scale": scale.astype(np.float32),
    }
    return ort_run(onnx_model(nodes, initializers), x, threads)


def ort_matmulnbits(bits: int) -> Peer:
    """MatMulNBits, symmetric, accuracy_level 4 (int8 activations)."""

    def peer(weight: np.ndarray, x: np.ndarray, threads: int) -> Run:
        if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 29) and bits == 2:
            raise Missing("2 bits with accuracy_level 4 need onnxruntime >= 1.29")
        n, k = weight.shape
        zero = 2 ** (bits - 1)
        blocks = weight.reshape(n, k // BLOCK, BLOCK)
        scale = np.abs(blocks).max(2, keepdims=True) / (zero - 0.5)
        indices = np.clip(np.rint(blocks / scale) + zero, 0, 2 * zero - 1).astype(np.uint8)
        per_byte = 8 // bits
        shifts = bits * np.arange(per_byte, dtype=np.uint8)
        packed = (indices.reshape(n, k // BLOCK, -1, per_byte) << shifts).sum(3).astype(np.uint8)
        node = helper.make_node(
            "MatMulNBits",
            ["x", "weight", "scale"],
            ["y"],
            domain="com.microsoft",
            K=k,
            N=n,
            bits=bits,
            block_size=BLOCK,
            accuracy_level=4,
        )
        initializers = {"weight": packed, "scale": scale[..., 0].astype(np.float32)}
        return ort_run(onnx_model([node], initializers, ("com.microsoft", 1)), x, threads)

    return peer


def torch_fp32(weight: np.ndarray, x: np.ndarray, threads: int) -> Run:
    """torch.nn.Linear."""
    torch = _package("torch")
    return _torch_run(torch, _torch_linear(torch, weight), x, threads)


def torch_fbgemm_int8(weight: np.ndarray, x: np.ndarray, threads: int) -> Run:
    """torch's dynamic quantization: int8 weights, uint8 activations per tensor."""
    torch = _package("torch")
    quantization = _package("torch.ao.quantization")
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        raise Missing("this build of torch has no fbgemm")
    torch.backends.quantized.engine = "fbgemm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = quantization.quantize_dynamic(
            torch.nn.Sequential(_torch_linear(torch, weight)),
            {torch.nn.Linear},
            dtype=torch.qint8,
        )
    return _torch_run(torch, module, x, threads)


def openvino_fp32(weight: np.ndarray, x: np.ndarray, threads: int) -> Run:
    """OpenVINO's MatMul in float32."""
    core = _package("openvino").Core()
    return _openvino_run(core, core.read_model(matmul_model(weight)), x, threads)


def openvino_int8(weight: np.ndarray, x: np.ndarray, threads: int) -> Run:
    """OpenVINO with int8 weights per output (NNCF's compress_weights)."""
    core = _package("openvino").Core()
    nncf = _package("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = core.read_model(matmul_model(weight))
    with contextlib.redirect_stdout(io.StringIO()):  # a progress bar
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    return _openvino_run(core, model, x, threads)


#: Name -> peer, in the order of the tables.
PEERS: dict[str, Peer] = {
    "ort-fp32": ort_fp32,
    "ort-int8-dynamic": ort_int8_dynamic,
    "ort-matmulnbits-2": ort_matmulnbits(2),
    "ort-matmulnbits-4": ort_matmulnbits(4),
    "torch-fp32": torch_fp32,
    "torch-fbgemm-int8": torch_fbgemm_int8,
    "openvino-fp32": openvino_fp32,
    "openvino-int8": openvino_int8,
}


def _package(name: str) -> Any:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as without spinning in ONNX Runtime
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Missing(f"{error}; it belongs to the extra `bench`") from None


def _torch_linear(torch: Any, weight: np.ndarray) -> Any:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = torch.nn.Parameter(torch.from_numpy(weight), requires_grad=False)
    return linear


def _torch_run(torch: Any, module: Any, x: np.ndarray, threads: int) -> Run:
    tensor = torch.from_numpy(x)

    def run() -> np.ndarray:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return module(tensor).numpy()

    return run


def _openvino_run(core: Any, model: Any, x: np.ndarray, threads: int) -> Run:
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", options)
    request = compiled.create_infer_request()

    def run() -> np.ndarray:
        request.infer({0: x})
        return request.get_output_tensor().data

    return run
