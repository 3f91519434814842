"""What is known of an engine whose models are TensorRT plans: what its manifest says.

A plan can be looked into only by the TensorRT that built it, on the GPU that it was built for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .engines.manifest import Manifest

#: Bits per weight in the manifest from which on a linear is dense.
_DENSE_BITS = 16

#: How a quantized linear runs, in words.
_WAYS = {"gather": "gathered by one kernel", "decode": "decoded before a product"}


def plan_contents(manifest: Manifest) -> dict[str, Any]:
    """Target, GPUs and versions, files, and bits of each linear, as plain values for JSON."""
    shapes = manifest.model.block_linear_shapes()
    sizes = {name: rows * columns for name, (rows, columns) in shapes.items()}
    total = sum(manifest.bits_per_weight[name] * size for name, size in sizes.items())
    return {
        "kind": "engine",
        "target": manifest.target,
        "form": manifest.form,
        "model": manifest.model.to_dict(),
        "compute_dtype": manifest.compute_dtype,
        "batch": [manifest.batch_min, manifest.batch_max],
        "tensorrt": None if manifest.tensorrt is None else manifest.tensorrt.to_dict(),
        "source_sha256": manifest.source_sha256,
        "files": {role: entry.to_dict() for role, entry in manifest.files.items()},
        "bits_per_weight": total / sum(sizes.values()),
        "total_bytes": sum(entry.bytes for entry in manifest.files.values()),
        "layers": [
            {"name": name, "shape": list(shapes[name]), "bits_per_weight": bits}
            for name, bits in manifest.bits_per_weight.items()
        ],
        "linears": linears_by_way(manifest),
    }


def linears_by_way(manifest: Manifest) -> dict[str, list[str]]:
    """Quantized linears that are gathered by one kernel, and those decoded before a product.

    Empty where they run in one way only.
    """
    build = manifest.tensorrt
    if build is None or build.plugin == "none":
        return {}
    decoded = set(build.decoded_linears)
    quantized = [name for name, bits in manifest.bits_per_weight.items() if bits < _DENSE_BITS]
    return {
        "gather": [name for name in quantized if name not in decoded],
        "decode": [name for name in quantized if name in decoded],
    }


def plan_lines(contents: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    build = contents["tensorrt"]
    gpus = ", ".join(build["compute_capabilities"])
    dense = sum(layer["bits_per_weight"] >= _DENSE_BITS for layer in contents["layers"])
    low, high = contents["batch"]
    return [
        *(
            f"{layer['name']:<28}{'x'.join(map(str, layer['shape'])):>10}"
            f"{layer['bits_per_weight']:>8.3f}"
            for layer in contents["layers"]
        ),
        "(layer, shape, bits per weight, by the manifest; plans cannot be looked into)",
        f"engine for {contents['target']} {build['version']}, compute capability {gpus}"
        + (f" ({build['gpu']})" if build["gpu"] else ""),
        f"{contents['compute_dtype']}, batch {low}..{high} (best at {build['batch_opt']}), "
        f"plugins: {build['plugin']}",
        f"{len(contents['layers']) - dense} of {len(contents['layers'])} block linears quantized, "
        f"{contents['bits_per_weight']:.4f} bits per weight",
        *(f"{len(names)} of them: {_WAYS[way]}" for way, names in contents["linears"].items()),
        f"files: {contents['total_bytes']:,} bytes" + _unpacked(contents["files"]),
    ]


def _unpacked(files: Mapping[str, Mapping[str, Any]]) -> str:
    """What packed plans come to, in words."""
    plans = [entry["unpacked_bytes"] for entry in files.values() if "unpacked_bytes" in entry]
    return f"; packed plans in them of {sum(plans):,} bytes" if plans else ""
