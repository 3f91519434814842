"""Linear layers in an ONNX graph: our nodes where the layer is quantized, MatMul where it is dense.

A quantized layer is gathered by one node or decoded before a product, see `linear_ways`. The three
export forms differ here only: whether our node carries a function body (`function`, `inlined`: the
body is put in its place afterwards) or stands bare (`plugin`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vq4dit.errors import ArtifactError
from vq4dit.plugins import schema
from vq4dit.plugins.layer import QuantizedLayer
from vq4dit.plugins.layout import AssignmentLayout
from vq4dit.plugins.packing import change_assignment_layout
from vq4dit.weight_source import WeightSource

from .element_types import FP32, ElementType
from .functions import function_body
from .graph import GraphBuilder
from .linear_ways import DECODE, GATHER, ChooseWay, LinearUse, always
from .specialized import specialized_function

#: How the ops of domain `vq4dit` are written into the file.
FORMS = ("function", "inlined", "plugin")


class Linears:
    """Adds the linear layers of one weight source to one graph.

    `decoded`: layers that are decoded before a product, and bytes of each such weight.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        source: WeightSource,
        *,
        form: str,
        assignment_layout: AssignmentLayout,
        element: ElementType = FP32,
        rows_per_sample: int = 1,
        choose_way: ChooseWay | None = None,
    ) -> None:
        """`rows_per_sample`: rows of the batch for each sample, 2 with guidance."""
        self.element = element
        self.decoded: dict[str, int] = {}
        self._graph = graph
        self._source = source
        self._form = form
        self._assignment_layout = assignment_layout
        self._rows_per_sample = rows_per_sample
        self._choose_way = choose_way or always(GATHER)

    def add(self, name: str, x: str, *, activation: str = "none", tokens: int | None = None) -> str:
        """Add act(x W^T + bias) for the layer `name`: x is (B, I), or (B, tokens, I).

        x and the result are of the model's element type.

        Raises:
            ArtifactError: the source lacks the layer, or it has another shape.
        """
        layer = self._source.quantized_layer(name)
        if layer is None:
            y = self._add_dense(name, x, self.element)
        elif self._way(name, layer, tokens) == DECODE:
            y = self._add_decoded(name, x, layer, tokens)
        else:
            return self._add_codebook_gemm(name, x, layer, activation=activation, tokens=tokens)
        return self._activate(name, y, activation)

    def add_residual(self, name: str, x: str, gate: str, residual: str, *, tokens: int) -> str:
        """Add residual + gate[:, None] * (x W^T + bias): x (B, T, I), gate (B, O).

        The residual and the result are float32 whatever the model's element type is.
        """
        layer = self._source.quantized_layer(name)
        if layer is None:
            y = self._add_dense(name, x, self.element)
        elif self._way(name, layer, tokens, is_residual=True) == DECODE:
            y = self._add_decoded(name, x, layer, tokens)
        else:
            return self._add_codebook_op(
                name, schema.CODEBOOK_GEMM_RESIDUAL, layer, self._store(name, layer),
                {"x": x, "gate": gate, "residual": residual},
                output_shape=[None, tokens, layer.out_features], output_type=FP32,
            )  # fmt: skip
        return self._add_gate(name, y, gate, residual)

    def add_float32(self, name: str, x: str) -> str:
        """Add x W^T + bias in float32 for a layer that is never quantized."""
        return self._add_dense(name, x, FP32)

    def add_stacked(self, name: str, names: Sequence[str], x: str) -> str | None:
        """Add several layers that read the same x (B, I) as one node; None if they do not fit.

        Their rows follow each other in the output (B, sum of O). They fit when all are quantized
        with the same layout and as many rows and row groups each, and are not to be decoded: the
        weights of all at once would take much memory.
        """
        layers = [self._source.quantized_layer(layer_name) for layer_name in names]
        stacked = _stack([layer for layer in layers if layer is not None])
        if stacked is None or None in layers:
            return None
        if self._way(name, stacked, None, count=len(names)) == DECODE:
            return None
        return self._add_codebook_gemm(name, x, stacked, activation="none", tokens=None)

    def _way(
        self,
        name: str,
        layer: QuantizedLayer,
        tokens: int | None,
        *,
        is_residual: bool = False,
        count: int = 1,
    ) -> str:
        """One of WAYS, as chosen for this layer."""
        return self._choose_way(
            LinearUse(
                name=name,
                rows_per_sample=self._rows_per_sample * (tokens or 1),
                out_features=layer.out_features,
                row_groups=layer.row_groups,
                layout=replace(layer.layout, assignment_layout=self._assignment_layout),
                is_residual=is_residual,
                count=count,
            )
        )

    def _add_dense(self, name: str, x: str, element: ElementType) -> str:
        """MatMul and Add; the weight is stored as (I, O), which is how MatMul reads it."""
        graph = self._graph
        weight, bias = (self._source.tensor(f"{name}.{part}") for part in ("weight", "bias"))
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ArtifactError(
                f"{name}: weight has shape {weight.shape} and bias {bias.shape}, needed (O, I), (O)"
            )
        dtype = element.numpy_dtype
        stored = graph.initializer(f"{name}.weight", np.ascontiguousarray(weight.T, dtype=dtype))
        product = graph.op(f"{name}.product", "MatMul", x, stored)
        return graph.op(name, "Add", product, graph.initializer(f"{name}.bias", bias.astype(dtype)))

    def _add_decoded(self, name: str, x: str, layer: QuantizedLayer, tokens: int | None) -> str:
        """CodebookDecode and a product by standard nodes.

        TensorRT-RTX folds the transposition into the product of (B, T, I), and for (B, I) writes
        the transposed weight to memory, which Gemm avoids.
        """
        graph, columns = self._graph, layer.layout.in_features
        weights = self._store(name, layer)
        weight = self._add_codebook_op(
            f"{name}.weight", schema.CODEBOOK_DECODE, layer, weights, {},
            output_shape=[layer.out_features, columns], output_type=self.element,
        )  # fmt: skip
        self.decoded[name] = layer.out_features * columns * self.element.bits // 8
        if tokens is None:
            return graph.op(name, "Gemm", x, weight, weights["bias"], transB=1)
        turned = graph.op(f"{name}.weight.turned", "Transpose", weight, perm=[1, 0])  # (I, O)
        product = graph.op(f"{name}.product", "MatMul", x, turned)
        return graph.op(name, "Add", product, weights["bias"])

    def _add_gate(self, name: str, y: str, gate: str, residual: str) -> str:
        """residual + gate[:, None] * y behind a product of standard nodes."""
        graph = self._graph
        wide = graph.op(f"{name}.gate", "Unsqueeze", gate, graph.constant([1]))  # (B, 1, O)
        gated = graph.op(f"{name}.gated", "Mul", y, wide)
        if self.element is not FP32:
            gated = graph.cast(f"{name}.gated.float32", gated, FP32)
        return graph.op(f"{name}.residual", "Add", residual, gated)

    def _activate(self, name: str, x: str, activation: str) -> str:
        """The activation behind a product of standard nodes."""
        if activation == "gelu_tanh":
            return self._graph.op(f"{name}.gelu", "Gelu", x, approximate="tanh")
        return x if activation == "none" else add_silu(self._graph, f"{name}.silu", x)

    def _add_codebook_gemm(
        self, name: str, x: str, layer: QuantizedLayer, *, activation: str, tokens: int | None
    ) -> str:
        """A CodebookGemm node."""
        leading = [None] if tokens is None else [None, tokens]
        return self._add_codebook_op(
            name, schema.CODEBOOK_GEMM, layer, self._store(name, layer), {"x": x},
            output_shape=[*leading, layer.out_features], output_type=self.element,
            activation=activation,
        )  # fmt: skip

    def _store(self, name: str, layer: QuantizedLayer) -> dict[str, str]:
        """Store a layer's weights in the target's assignment layout; the op's input -> tensor."""
        graph, dtype = self._graph, self.element.numpy_dtype
        assignments = change_assignment_layout(
            layer.assignments, layer.layout, self._assignment_layout
        )
        arrays = {
            "codebook": layer.codebook.astype(dtype),
            "assignments": assignments,
            "bias": layer.bias.astype(dtype),
        }
        return {part: graph.initializer(f"{name}.{part}", a) for part, a in arrays.items()}

    def _add_codebook_op(
        self,
        node: str,
        op: schema.OpSchema,
        layer: QuantizedLayer,
        weights: Mapping[str, str],
        others: Mapping[str, str],
        *,
        output_shape: Sequence[int | str | None],
        output_type: ElementType,
        activation: str = "none",
    ) -> str:
        """A node of ours; `weights` and `others`: the op's input -> tensor."""
        layout = replace(layer.layout, assignment_layout=self._assignment_layout)
        function = None
        if self._form == "function":
            function = function_body(op)
        elif self._form == "inlined":
            function = specialized_function(
                op, layout, row_groups=layer.row_groups, activation=activation,
                is_matrix=op is schema.CODEBOOK_GEMM and len(output_shape) == 2,
            )  # fmt: skip
        tensors = {**weights, **others}
        return self._graph.codebook_op(
            node, op, [tensors[name] for name in op.inputs],
            schema.attributes_from_layout(op, layout, activation=activation),
            function=function, output_shape=output_shape, output_type=output_type.onnx_type,
        )  # fmt: skip


def add_silu(graph: GraphBuilder, name: str, x: str) -> str:
    """x * sigmoid(x); the op Swish came after opset 20."""
    return graph.op(name, "Mul", x, graph.op(f"{name}.sigmoid", "Sigmoid", x))


def _stack(layers: Sequence[QuantizedLayer]) -> QuantizedLayer | None:
    """One layer whose rows are the rows of all; None if their sizes differ.

    Row o of the stack uses codebook o // (O / R) still, since all have as many rows per codebook.
    """
    if len({(x.layout, x.row_groups, x.out_features) for x in layers}) != 1:
        return None
    layout = replace(layers[0].layout, assignment_layout=AssignmentLayout.ROWS)
    return QuantizedLayer(
        codebook=np.concatenate([x.codebook for x in layers]),
        assignments=np.concatenate(
            [
                change_assignment_layout(x.assignments, x.layout, AssignmentLayout.ROWS)
                for x in layers
            ]
        ),
        bias=np.concatenate([x.bias for x in layers]),
        layout=layout,
    )
