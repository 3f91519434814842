"""Builder of an ONNX graph: named nodes, small constants kept once, large weights put aside.

A node's output has the node's name, so that a profile or an error message reads like the model.
Knows nothing of Diffusion Transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vq4dit import __version__
from vq4dit.plugins import schema

from .element_types import ElementType
from .external_data import ExternalData

OPSET = 20
IR_VERSION = 10

#: Initializers above this size go to the external data file.
INLINE_LIMIT_BYTES = 1024

#: Domain of the operators that ONNX Runtime adds to ONNX's, and the version of all of them.
ORT_DOMAIN = "com.microsoft"
_ORT_VERSION = 1


class GraphBuilder:
    """Collects nodes, initializers, inputs and outputs of one graph, in the order of the calls."""

    def __init__(self, weights: ExternalData) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._value_info: list[onnx.ValueInfoProto] = []
        self._functions: dict[tuple[str, str], onnx.FunctionProto] = {}
        self._once: set[str] = set()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def input(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        """Declare a graph input; a string in the shape is a dynamic dimension."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: Sequence[int | str]) -> None:
        """Declare the float32 tensor `name` as an output of the graph."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Name of a constant tensor; equal ones are stored once.

        It is always in the model itself: shape inference reads no external data.
        """
        array = np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def initializer(self, name: str, array: NDArray[Any]) -> str:
        """Store a weight, in the external data file if it is above INLINE_LIMIT_BYTES."""
        if array.nbytes > INLINE_LIMIT_BYTES:
            self._initializers.append(self._weights.add(name, array))
        else:
            self._initializers.append(numpy_helper.from_array(array, name))
        return name

    def initializer_once(self, name: str, array: NDArray[Any]) -> str:
        """As `initializer`, stored on the first call with this name only."""
        if name not in self._once:
            self._once.add(self.initializer(name, array))
        return name

    def op(self, name: str, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a standard node with one output; returns the output, which is called `name`."""
        self._nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def split(self, name: str, x: str, sizes: Sequence[int], *, axis: int) -> list[str]:
        """Cut `x` along an axis of known size; the parts are called name.0, name.1, ..."""
        parts = [f"{name}.{i}" for i in range(len(sizes))]
        node = helper.make_node("Split", [x, self.constant(sizes)], parts, name=name, axis=axis)
        self._nodes.append(node)
        return parts

    def reshape(self, name: str, x: str, shape: Sequence[int]) -> str:
        """Reshape; 0 keeps a dimension, -1 is inferred."""
        return self.op(name, "Reshape", x, self.constant(shape))

    def cast(self, name: str, x: str, element: ElementType) -> str:
        """Add a Cast to an element type."""
        return self.op(name, "Cast", x, to=element.onnx_type)

    def codebook_op(
        self,
        name: str,
        op: schema.OpSchema,
        inputs: Sequence[str],
        attributes: dict[str, int | str],
        *,
        function: onnx.FunctionProto | None,
        output_shape: Sequence[int | str | None],
        output_type: int = TensorProto.FLOAT,
    ) -> str:
        """Add a node of our domain, with a function body or bare, and the type of its output."""
        overload = None
        if function is not None:
            overload = function.overload
            self._functions.setdefault((function.name, overload), function)
        self._nodes.append(
            helper.make_node(
                op.name, inputs, [name], name=name, domain=schema.DOMAIN, overload=overload,
                **attributes,
            )
        )  # fmt: skip
        info = helper.make_tensor_value_info(name, output_type, output_shape)
        self._value_info.append(info)
        return name

    def ort_op(
        self,
        name: str,
        op_type: str,
        *inputs: str,
        output_shape: Sequence[int | str | None],
        **attributes: Any,
    ) -> str:
        """Add a float32 node of ONNX Runtime's own domain, which ONNX infers no shapes of."""
        node = helper.make_node(op_type, inputs, [name], name=name, domain=ORT_DOMAIN, **attributes)
        self._nodes.append(node)
        self._value_info.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, output_shape)
        )
        return name

    def model(self, graph_name: str) -> onnx.ModelProto:
        """The model of everything added so far; deterministic."""
        graph = helper.make_graph(
            self._nodes, graph_name, self._inputs, self._outputs, self._initializers,
            value_info=self._value_info,
        )  # fmt: skip
        versions = {schema.DOMAIN: schema.VERSION, ORT_DOMAIN: _ORT_VERSION}
        used = {node.domain for node in self._nodes}
        opsets = [helper.make_opsetid("", OPSET)]
        opsets += [helper.make_opsetid(name, v) for name, v in versions.items() if name in used]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=IR_VERSION,
            functions=list(self._functions.values()),
            producer_name="vq4dit",
            producer_version=__version__,
        )
