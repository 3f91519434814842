"""Random vector-quantized layers and one-node models, for the tests of every backend of the op."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from vq4dit.plugins import Layout, ort_library_path
from vq4dit.plugins.layout import AssignmentLayout, layout_from_bits
from vq4dit.plugins.packing import pack_assignments
from vq4dit.plugins.schema import (
    CODEBOOK_DECODE,
    CODEBOOK_GEMM,
    CODEBOOK_GEMM_RESIDUAL,
    DOMAIN,
    VERSION,
    OpSchema,
    attributes_from_layout,
)


@dataclass(frozen=True, kw_only=True)
class RandomLayer:
    """A float32 layer: codebook (R, K, d), packed assignments, bias (O,)."""

    layout: Layout
    codebook: np.ndarray
    assignments: np.ndarray
    bias: np.ndarray

    @property
    def weights(self) -> dict[str, np.ndarray]:
        return {"codebook": self.codebook, "assignments": self.assignments, "bias": self.bias}


def random_layer(
    layout: Layout, out_features: int, *, row_groups: int = 1, seed: int = 0
) -> RandomLayer:
    rng = np.random.default_rng(seed)
    shape = (row_groups, layout.codebook_size, layout.sub_vector_len)
    indices = rng.integers(0, layout.codebook_size, (out_features, layout.num_sub_vectors))
    return RandomLayer(
        layout=layout,
        codebook=rng.standard_normal(shape, dtype=np.float32),
        assignments=pack_assignments(indices, layout),
        bias=rng.standard_normal(out_features, dtype=np.float32),
    )


def layout_of(bits: int, in_features: int, **changes) -> Layout:
    """A named configuration as the CPU library reads it, with some fields changed."""
    layout = layout_from_bits(in_features, bits, AssignmentLayout.FOUR_MAJOR)
    return replace(layout, **changes)


def random_x(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Frobenius norm of the difference over that of the expected."""
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def one_op_model(
    op: OpSchema,
    inputs: dict[str, np.ndarray],
    layout: Layout,
    *,
    activation: str = "none",
    constants: tuple[str, ...] = ("codebook", "assignments", "bias"),
    **changed_attributes: Any,
) -> bytes:
    """A model of one node; inputs named in `constants` become initializers.

    Other inputs get symbolic dimensions. An attribute changed to None is left out.
    """
    attributes = attributes_from_layout(op, layout, activation=activation) | changed_attributes
    attributes = {name: value for name, value in attributes.items() if value is not None}
    node = helper.make_node(op.name, op.inputs, ["y"], name="layer", domain=DOMAIN, **attributes)
    graph_inputs = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(array.dtype),
            [f"{name}_{axis}" for axis in range(array.ndim)],
        )
        for name, array in inputs.items()
        if name in op.inputs and name not in constants
    ]
    initializers = [
        numpy_helper.from_array(inputs[name], name) for name in op.inputs if name in constants
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "one_op", graph_inputs, [output], initializers)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return model.SerializeToString()


def ort_session(
    model: bytes, *, accuracy: str | None = None, isa: str | None = None, threads: int = 1
) -> onnxruntime.InferenceSession:
    """A CPU session with our library registered."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if accuracy is not None:
        options.add_session_config_entry("vq4dit.accuracy", accuracy)
    if isa is not None:
        options.add_session_config_entry("vq4dit.isa", isa)
    options.register_custom_ops_library(str(ort_library_path()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def require_ort_library() -> None:
    """Skip without the native library; fail in CI, where it must have been built."""
    if ort_library_path() is None:
        reason = "the CPU library was not built (no C++ compiler when vq4dit was installed)"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason, allow_module_level=True)


def run_gemm(layer: RandomLayer, x: np.ndarray, *, activation: str = "none", **session: Any) -> Any:
    """CodebookGemm of one layer in ONNX Runtime."""
    model = one_op_model(
        CODEBOOK_GEMM, {"x": x, **layer.weights}, layer.layout, activation=activation
    )
    return ort_session(model, **session).run(None, {"x": x})[0]


def run_residual(
    layer: RandomLayer, x: np.ndarray, gate: np.ndarray, residual: np.ndarray, **session: Any
) -> Any:
    """CodebookGemmResidual of one layer in ONNX Runtime."""
    feeds = {"x": x, "gate": gate, "residual": residual}
    model = one_op_model(CODEBOOK_GEMM_RESIDUAL, {**feeds, **layer.weights}, layer.layout)
    return ort_session(model, **session).run(None, feeds)[0]


def run_decode(layer: RandomLayer, **session: Any) -> Any:
    """CodebookDecode of one layer in ONNX Runtime."""
    model = one_op_model(
        CODEBOOK_DECODE, layer.weights, layer.layout, constants=("codebook", "assignments")
    )
    return ort_session(model, **session).run(None, {})[0]
