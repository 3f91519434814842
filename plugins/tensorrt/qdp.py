"""The ops as quickly deployable plugins, ahead of time: the kernel's PTX goes into the plan.

When TensorRT (10.9 or newer) builds an engine it asks three Python functions about each node: what
comes out (describe), which types and kernels there are (autotune), and for the chosen kernel its
PTX, launch size and integer arguments as formulas over the shapes (compile). All of it is stored
in the plan: at run time there is neither Python nor a plugin library.

Source: TensorRT documentation, "Quickly Deployable Plugins"; `tensorrt.plugin` of TensorRT 11.4.
The bindings derive names and types from the functions' signatures, so these are made from
schema.py. Shape rules, conditions and launch sizes come from the op's own modules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import GenericAlias
from typing import Any, Union

from vq4dit.errors import OptionError

from .. import schema
from ..cuda.compile import SMS, compile_ptx
from ..cuda.configuration import KernelConfiguration
from ..cuda.launch import launch_geometry, rows_per_block
from ..cuda.parameters import SCALAR, kernel_parameters
from ..layout import AssignmentLayout
from .bindings import Bindings, import_bindings, with_signature
from .kernel_choice import kernel_of_tactic, kernels_for, tactic_number
from .node_sizes import check_weights, kernel_sizes

_log = logging.getLogger(__name__)

#: TensorRT's name of an element type -> ours, and its name in an AutoTuneCombination.
_DTYPES = {"HALF": ("float16", "FP16"), "BF16": ("bfloat16", "BF16")}
_COMBINATION_NAMES = {name: combination for name, (_, combination) in _DTYPES.items()}

#: Inputs and outputs that are float32 in every model, and the one that holds bytes.
_FLOAT32 = ("residual",)
_BYTES = "assignments"

#: Compute capability that plugins were registered for in this process; TensorRT keeps them.
_registered: list[int] = []

CompileKernel = Callable[[KernelConfiguration, int], str]


def register_plugins(sm: int, *, compile_kernel: CompileKernel = compile_ptx) -> None:
    """Make the ops known to TensorRT's builder and ONNX parser in this process, for one GPU.

    Args:
        sm: compute capability of the GPU that the engine is built on and for, such as 87. One that
            the kernels are not compiled for gets the PTX of the newest below it.
        compile_kernel: configuration and sm to PTX.
    Raises:
        BackendUnavailable: `tensorrt` is not installed, or older than 10.9.
        OptionError: sm is too old, or plugins for another sm were registered before.
    """
    if sm < SMS[0]:
        raise OptionError(
            f"sm is {sm}, the kernels need {SMS[0]} (Ampere) or newer; "
            "build for --target cpu or onnx instead"
        )
    if sm in _registered:
        return
    if _registered:
        raise OptionError(
            f"plugins for sm_{_registered[0]} are registered already, not for sm_{sm}; "
            "build for another GPU in a process of its own"
        )
    bindings = import_bindings()
    ptx_sm = max(known for known in SMS if known <= sm)
    for op in schema.OPS.values():
        node = _Node(bindings=bindings, op=op, sm=ptx_sm, compile_kernel=compile_kernel)
        _register(bindings, node)
    _registered.append(sm)


@dataclass(frozen=True, kw_only=True)
class _Node:
    """What TensorRT asks about a node of one op; the attributes come with every question."""

    bindings: Bindings
    op: schema.OpSchema
    sm: int
    compile_kernel: CompileKernel

    @property
    def attributes(self) -> tuple[str, ...]:
        """Attributes that reach the plugin; the parser uses up namespace and version itself."""
        return tuple(a for a in self.op.attributes if not a.startswith("plugin_"))

    def describe(self, *tensors: Any, **attributes: Any) -> Any:
        """Shape and type of the output; checks everything that is known of the inputs."""
        inputs = dict(zip(self.op.inputs, tensors, strict=True))
        layout = schema.layout_from_attributes(attributes)
        dtype = self._element_type(inputs)
        self._check_types(inputs, dtype)
        check_weights(self.op, layout, inputs)
        from_shape = self.bindings.plugin.from_shape_expr
        axis = 0 if layout.assignment_layout == AssignmentLayout.ROWS else 1
        out_features = inputs["assignments"].shape_expr[axis]
        if self.op is schema.CODEBOOK_DECODE:
            return from_shape((out_features, layout.in_features), dtype)
        if self.op is schema.CODEBOOK_GEMM_RESIDUAL:
            dtype = inputs["residual"].dtype
        x = inputs["x"]
        return from_shape((*(x.shape_expr[i] for i in range(x.ndim - 1)), out_features), dtype)

    def autotune(self, *arguments: Any) -> Any:
        """The one combination of types that fits the network, and a tactic for every kernel."""
        inputs, attributes, _ = self._split(arguments, num_behind=1)
        element = self._element_type(inputs)
        kernels = self._kernels(inputs, attributes)
        combination = _COMBINATION_NAMES[element.name]
        names = [_combination_name(name, combination) for name in self.op.inputs]
        residual = self.op is schema.CODEBOOK_GEMM_RESIDUAL
        names.append("FP32" if residual else combination)
        tactics = [tactic_number(kernel) for kernel in kernels]
        return [self.bindings.plugin.AutoTuneCombination(", ".join(names), "LINEAR", tactics)]

    def compile(self, *arguments: Any) -> Any:
        """Name, PTX, launch size and integer arguments of the kernel that a tactic names."""
        inputs, attributes, (_, tactic) = self._split(arguments, num_behind=2)
        kernel = kernel_of_tactic(self._kernels(inputs, attributes), tactic)
        sizes = kernel_sizes(self.op, schema.layout_from_attributes(attributes), inputs)
        _log.info("compiling %s for sm_%d", kernel.name, self.sm)
        return (
            kernel.name,
            self.compile_kernel(kernel, self.sm),
            self._launch(kernel, sizes),
            self._scalars(kernel, sizes),
        )

    def _launch(self, kernel: KernelConfiguration, sizes: dict[str, Any]) -> Any:
        """The launch size: x grows with M, the rest is known."""
        geometry = launch_geometry(
            kernel, m=1, n=sizes["out_features"], k=sizes["in_features"],
            row_groups=sizes["row_groups"],
        )  # fmt: skip
        plugin, rows = self.bindings.plugin, rows_per_block(kernel)
        launch = plugin.KernelLaunchParams()
        launch.grid_x = plugin.cdiv(sizes["m"], rows) if rows else geometry.grid[0]
        launch.grid_y, launch.grid_z = geometry.grid[1:]
        launch.block_x, launch.block_y, launch.block_z = geometry.block
        launch.shared_mem = geometry.shared_bytes
        return launch

    def _scalars(self, kernel: KernelConfiguration, sizes: dict[str, Any]) -> Any:
        """The kernel's integers, between its inputs and its output."""
        plugin = self.bindings.plugin
        names = [p.name for p in kernel_parameters(kernel) if p.kind == SCALAR]
        return plugin.SymIntExprs.from_tuple(tuple(plugin.SymInt32(sizes[n]) for n in names))

    def _kernels(
        self, inputs: dict[str, Any], attributes: dict[str, Any]
    ) -> tuple[KernelConfiguration, ...]:
        layout = schema.layout_from_attributes(attributes)
        dtype, _ = _DTYPES[self._element_type(inputs).name]
        # The parser counts the closing NUL of a text.
        activation = attributes.get("activation", "none").rstrip("\0")
        return kernels_for(self.op, layout, dtype=dtype, activation=activation, sm=self.sm)

    def _split(
        self, arguments: tuple[Any, ...], *, num_behind: int
    ) -> tuple[dict[str, Any], dict[str, Any], tuple[Any, ...]]:
        """Inputs by name, attributes by name, and what stands behind them."""
        count = len(self.op.inputs)
        values, behind = arguments[:-num_behind], arguments[-num_behind:]
        inputs = dict(zip(self.op.inputs, values[:count], strict=True))
        return inputs, dict(zip(self.attributes, values[count:], strict=True)), behind

    def _element_type(self, inputs: dict[str, Any]) -> Any:
        """TensorRT's type of x (of the codebook in CodebookDecode).

        Raises:
            OptionError: it is neither float16 nor bfloat16.
        """
        name = self.op.inputs[0]
        dtype = inputs[name].dtype
        if dtype.name not in _DTYPES:
            raise OptionError(
                f"{self.op.name}: {name} has type {dtype.name}, the GPU kernels take HALF "
                "(float16) and BF16; build with --weights fp16 or bf16"
            )
        return dtype

    def _check_types(self, inputs: dict[str, Any], element: Any) -> None:
        """Raise OptionError where an input's type is not the schema's."""
        trt = self.bindings.trt
        for name, tensor in inputs.items():
            needed = trt.DataType.FLOAT if name in _FLOAT32 else element
            needed = trt.DataType.INT8 if name == _BYTES else needed
            if tensor.dtype != needed:
                raise OptionError(
                    f"{self.op.name}: {name} has type {tensor.dtype.name}, needed {needed.name}"
                )


def _combination_name(name: str, element: str) -> str:
    return "INT8" if name == _BYTES else "FP32" if name in _FLOAT32 else element


def _register(bindings: Bindings, node: _Node) -> None:
    """Hand the three functions over, with signatures that the bindings can read."""
    plugin, op = bindings.plugin, node.op
    tensor = plugin.TensorDesc
    inputs = dict.fromkeys(op.inputs, tensor)
    attributes = {name: str if name == "activation" else int for name in node.attributes}
    outputs = {"outputs": GenericAlias(tuple, (tensor,))}
    combinations = GenericAlias(list, (plugin.AutoTuneCombination,))
    text = Union[str, bytes]  # noqa: UP007 - the bindings of 10.9 know no other spelling
    compiled = GenericAlias(tuple, (text, text, plugin.KernelLaunchParams, plugin.SymIntExprs))
    name = f"{schema.PLUGIN_NAMESPACE}::{op.name}"
    signed = partial(with_signature, parameters=inputs | attributes)
    plugin.register(name)(signed(node.describe, more={}, returns=tensor))
    plugin.autotune(name)(signed(node.autotune, more=outputs, returns=combinations))
    plugin.aot_impl(name)(signed(node.compile, more=outputs | {"tactic": int}, returns=compiled))
