"""The models that the whole-step benchmark runs, made once in its work folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from xl_scale import write_checkpoint

_SD_VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 256,
    "scaling_factor": 0.18215,
}


def make_models(work: Path, names: list[str], *, decode: bool) -> dict[str, Path]:
    """Paths by implementation, and "decode" for the engine with a decoder.

    The checkpoint and its artifact are those of `xl_scale.py --rows kmeans`, where it has run in
    the same folder.
    """
    work.mkdir(parents=True, exist_ok=True)
    dense, engine = work / "dense-engine", work / "2bit-engine"
    paths = {name: engine for name in names if name.startswith("vq4dit")}
    if paths or decode:
        _make(engine, [_artifact(work), "--vae", _vae(work)])
    if decode:
        paths["decode"] = engine
    if any(not name.startswith("vq4dit") for name in names):
        # Operators of ONNX alone, which every peer reads.
        _make(dense, [_checkpoint(work), "--weights", "fp32"], target="onnx")
    for name in names:
        if name == "ort-int8-dynamic":
            paths[name] = _ort_int8(dense / "step.onnx", work / "ort-int8.onnx")
        elif name == "openvino-int8":
            paths[name] = _openvino_int8(dense / "step.onnx", work / "openvino-int8.xml")
        elif not name.startswith("vq4dit"):
            paths[name] = dense
    return paths


def _checkpoint(work: Path) -> Path:
    path = work / "synthetic-xl.safetensors"
    if not path.exists():
        write_checkpoint(path)
    return path


def _artifact(work: Path) -> Path:
    path = work / "kmeans.vq.safetensors"
    if not path.exists():
        _vq4dit("calibrate", _checkpoint(work), "-o", path, "--recipe", "kmeans")
    return path


def _vae(work: Path) -> Path:
    """A folder of the usual AutoencoderKL (83.7 M weights) with random weights."""
    path = work / "vae"
    if not path.exists():
        import torch
        from diffusers import AutoencoderKL

        torch.manual_seed(0)
        AutoencoderKL(**_SD_VAE).save_pretrained(path)
    return path


def _make(engine: Path, arguments: list[object], *, target: str = "cpu") -> None:
    if not engine.exists():
        _vq4dit("build", *arguments, "-o", engine, "--target", target)


def _vq4dit(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "vq4dit", *map(str, arguments)], check=True)


def _ort_int8(source: Path, path: Path) -> Path:
    """quantize_dynamic, int8 weights per channel."""
    if not path.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            source,
            path,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True},
        )
    return path


def _openvino_int8(source: Path, path: Path) -> Path:
    """NNCF's compress_weights to int8; the plugin then quantizes activations as it sees fit."""
    if not path.exists():
        import nncf
        import openvino

        model = nncf.compress_weights(
            openvino.Core().read_model(source), mode=nncf.CompressWeightsMode.INT8_SYM
        )
        openvino.save_model(model, path, compress_to_fp16=False)
    return path
