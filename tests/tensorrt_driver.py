"""Walks ahead-of-time plugins through the calls that TensorRT's builder makes, in a child process.

The registry, the creators, the plugins, their fields and tensor descriptions are TensorRT's own.
What the builder brings and the bindings do not let Python make is replaced: symbolic dimensions
(IDimensionExpr, IExprBuilder, DimsExprs) and the place where scalar arguments go (ISymExpr).

Run as a script: reads a JSON list of cases from the file named, prints what came of each.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from support_tensorrt import import_tensorrt


def make_expression_classes(trt: Any) -> tuple[type, type]:
    """IDimensionExpr and IExprBuilder that keep a formula over named sizes and can evaluate it."""
    operation = trt.DimensionOperation
    formulas = {
        operation.SUM: lambda a, b: a + b,
        operation.SUB: lambda a, b: a - b,
        operation.PROD: lambda a, b: a * b,
        operation.FLOOR_DIV: lambda a, b: a // b,
        operation.CEIL_DIV: lambda a, b: -(-a // b),
        operation.MAX: max,
        operation.MIN: min,
        operation.EQUAL: lambda a, b: int(a == b),
        operation.LESS: lambda a, b: int(a < b),
    }

    class Expression(trt.IDimensionExpr):
        @staticmethod
        def make(formula: Any, constant: int | None = None) -> Expression:
            made = Expression.__new__(Expression)  # the C++ class has no constructor for Python
            made.formula, made.constant = formula, constant
            return made

        def is_constant(self) -> bool:
            return self.constant is not None

        def get_constant_value(self) -> int:
            return self.constant

        def at(self, sizes: dict[str, int]) -> int:
            return self.formula(sizes)

    class Builder:
        def constant(self, value: int) -> Expression:
            return Expression.make(lambda sizes: value, value)

        def operation(self, op: Any, first: Expression, second: Expression) -> Expression:
            constant = None
            if first.constant is not None and second.constant is not None:
                constant = formulas[op](first.constant, second.constant)
            return Expression.make(
                lambda sizes: formulas[op](first.at(sizes), second.at(sizes)), constant
            )

        def dimension(self, size: int | str) -> Expression:
            return self.constant(size) if isinstance(size, int) else self.named(size)

        def named(self, name: str) -> Expression:
            return Expression.make(lambda sizes: sizes[name])

    return Expression, Builder


class Walk:
    """One node on its way through the builder.

    case: {"op", "attributes", "inputs": [[type name, [sizes or names]]], "ranges": {name: [min,
    opt, max]}, "sizes": [{name: value}], "launch"}; a name is a size that is known only when the
    engine runs; "launch" names the tactics to compile, all of them if it is not there.
    """

    def __init__(self, trt: Any, case: dict[str, Any]) -> None:
        self.trt, self.case = trt, case
        expression, builder = make_expression_classes(trt)
        self.builder = builder()
        self.types = [getattr(trt.DataType, name) for name, _ in case["inputs"]]
        self.dims = [[self.builder.dimension(s) for s in sizes] for _, sizes in case["inputs"]]

    def create(self) -> Any:
        """The plugin, by the real registry, with fields as the ONNX parser makes them."""
        trt, case = self.trt, self.case
        creator = trt.get_plugin_registry().get_creator(case["op"], "1", "vq4dit")
        known = [field.name for field in creator.field_names]
        fields = [self._field(name, case["attributes"][name]) for name in known]
        return creator.create_plugin(
            case["op"], "vq4dit", trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD,
            trt.QuickPluginCreationRequest.STRICT_AOT,
        )  # fmt: skip

    def _field(self, name: str, value: int | str) -> Any:
        """The parser gives integers as INT32 and counts a text's closing NUL."""
        trt = self.trt
        if isinstance(value, str):
            return trt.PluginField(name, value.encode() + b"\0", trt.PluginFieldType.CHAR)
        return trt.PluginField(name, np.array([value], np.int32), trt.PluginFieldType.INT32)

    def run(self) -> dict[str, Any]:
        """Everything that the builder would learn."""
        plugin = self.create()
        outputs = plugin.get_output_data_types(self.types, [len(dims) for dims in self.dims])
        shapes = plugin.get_output_shapes(self.dims, [], self.builder)
        tensors = zip([*self.types, outputs[0]], [*self.dims, list(shapes[0])], strict=True)
        in_out = [self._described(dtype, expressions) for dtype, expressions in tensors]
        count = len(self.types)
        found = plugin.get_supported_format_combinations(in_out, count)
        combinations = [found[i : i + count + 1] for i in range(0, len(found), count + 1)]
        plugin.configure_plugin(in_out[:count], in_out[count:])
        tactics = sorted(plugin.get_valid_tactics())
        launched = [t for t in tactics if t in self.case.get("launch", tactics)]
        return {
            "outputs": [t.name for t in outputs],
            "shapes": [[e.at(sizes) for e in shapes[0]] for sizes in self.case["sizes"]],
            "combinations": [[d.type.name for d in c] for c in combinations],
            "formats": sorted({d.format.name for c in combinations for d in c}),
            "tactics": tactics,
            "launches": [self._launch(plugin.clone(), in_out, t) for t in launched],
        }

    def _described(self, dtype: Any, expressions: list[Any]) -> Any:
        """A tensor as the builder tells of it: its range of shapes, nothing symbolic."""
        described = self.trt.DynamicPluginTensorDesc()
        described.desc.type = dtype
        described.desc.format = self.trt.TensorFormat.LINEAR
        described.desc.dims = [-1 if e.constant is None else e.constant for e in expressions]
        for place, name in enumerate(("min", "opt", "max")):
            sizes = {size: values[place] for size, values in self.case["ranges"].items()}
            setattr(described, name, [e.at(sizes) for e in expressions])
        return described

    def _launch(self, plugin: Any, in_out: list[Any], tactic: int) -> dict[str, Any]:
        """Kernel and launch of one tactic, evaluated at every size of the case."""
        launch, scalars, count = LaunchParams(), Scalars(), len(self.types)
        plugin.set_tactic(tactic)
        plugin.get_launch_params(self.dims, in_out, count, launch, scalars, self.builder)
        name, ptx = plugin.get_kernel(
            [d.desc for d in in_out[:count]], [d.desc for d in in_out[count:]]
        )
        return {
            "tactic": tactic,
            "kernel": name,
            "ptx": ptx.decode(),
            "num_scalars": scalars.nbSymExprs,
            "at": [
                {
                    "grid": [getattr(launch, f"grid_{axis}").at(sizes) for axis in "xyz"],
                    "block": [getattr(launch, f"block_{axis}").at(sizes) for axis in "xyz"],
                    "shared_bytes": launch.shared_mem.at(sizes),
                    "scalars": [scalars[i].at(sizes) for i in range(scalars.nbSymExprs)],
                }
                for sizes in self.case["sizes"]
            ],
        }


class LaunchParams:
    """Stands for KernelLaunchParams, which only the builder can make."""

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value.expression


class Scalars(dict):
    """Stands for ISymExprs."""

    nbSymExprs = 0

    def __setitem__(self, index: int, value: Any) -> None:
        super().__setitem__(index, value.expression)


def _patch(trt: Any) -> None:
    """Let Python's symbolic dimensions into the plugin's own code."""
    tensor = sys.modules["tensorrt_bindings.plugin._tensor"]

    class Recorded:
        def __init__(self, value: Any) -> None:
            if not isinstance(value, tensor.SymInt32):
                raise TypeError(f"TensorRT takes SymInt32 alone, found {type(value)}")
            self.expression = value._expr

    tensor.SymExprImpl = Recorded
    trt.DimsExprs = lambda size: [None] * size


def main(cases_file: str) -> None:
    """Register for the SM of the file, walk every case; an error becomes {"error": text}."""
    trt = import_tensorrt()
    document = json.loads(Path(cases_file).read_text())
    from vq4dit.plugins.tensorrt import register_plugins

    register_plugins(document["sm"])
    _patch(trt)
    results = []
    for case in document["cases"]:
        try:
            results.append(Walk(trt, case).run())
        except Exception as error:
            results.append({"error": f"{type(error).__name__}: {error}"})
            traceback.print_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
