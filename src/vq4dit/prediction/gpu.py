"""Predicts one sampling step on a GPU of the table, for float16 and for quantized weights.

The kernels' times come from `vq4dit.plugins.cuda.cost_model`; this module adds attention, passes
over activations, and memory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from vq4dit.accounting import config_from_preset, size_from_shapes
from vq4dit.engines.manifest import load_manifest
from vq4dit.errors import OptionError
from vq4dit.model_config import ModelConfig
from vq4dit.plugins.cuda.codebook_format import CodebookFormat
from vq4dit.plugins.cuda.cost_terms import Prediction
from vq4dit.plugins.cuda.efficiency import ASSUMED, Efficiencies
from vq4dit.plugins.cuda.gpu_table import Gpu, find_gpu
from vq4dit.plugins.cuda.selection import AHEAD_OF_TIME, Launcher, choose_codebook, choose_dense

from .profile import PredictedLayer, PredictedMemory, PredictedProfile
from .step_ops import StepOp, activation_bytes, step_ops

_QUANTIZED = re.compile(r"([1-4])bit")
_HALF = 2


def predict(
    source: Path | str | ModelConfig,
    gpu: str,
    batch: int,
    *,
    weights: Sequence[str] = ("fp16", "2bit"),
    cfg: bool | None = None,
    launcher: Launcher = AHEAD_OF_TIME,
    efficiencies: Efficiencies = ASSUMED,
) -> PredictedProfile:
    """Predict one step of a model on a GPU.

    Args:
        source: engine directory, model name such as "DiT-XL/2", or a configuration.
        gpu: name in the table of GPUs.
        batch: samples of a step.
        weights: what to compare: "fp16", "1bit", "2bit", "3bit", "4bit" (all linears of all blocks
            at that width, whatever the engine itself has).
        cfg: whether guidance doubles the batch; None: as the engine says, else true.
        launcher: what our kernels are launched by.
        efficiencies: shares of peak, assumed or calibrated.
    Raises:
        OptionError: unknown GPU, model or weights, or batch < 1.   ArtifactError: no engine there.
    """
    if batch < 1:
        raise OptionError(f"batch is {batch}, needed 1 or more")
    target = find_gpu(gpu)
    name, config, has_cfg = _model(source)
    is_doubled = has_cfg if cfg is None else cfg
    formats = {kind: _format(kind) for kind in weights}
    machine = _Machine(gpu=target, launcher=launcher, efficiencies=efficiencies)
    layers = tuple(
        machine.layer(op, formats) for op in step_ops(config, batch, cfg=is_doubled)
    )  # fmt: skip
    activations = activation_bytes(config, batch, cfg=is_doubled)
    return PredictedProfile(
        model=name,
        gpu=target.name,
        gpu_title=target.title,
        batch=batch,
        cfg=is_doubled,
        weights=tuple(formats),
        layers=layers,
        memory={
            kind: PredictedMemory(
                weights_bytes=_weight_bytes(config, form), activations_bytes=activations
            )
            for kind, form in formats.items()
        },
        gpu_memory_bytes=target.memory_bytes,
        assumptions=_assumptions(target, efficiencies),
        calibration=efficiencies.calibration,
    )


@dataclass(frozen=True, kw_only=True)
class _Machine:
    """A GPU with what launches on it and how well it does."""

    gpu: Gpu
    launcher: Launcher
    efficiencies: Efficiencies

    def layer(self, op: StepOp, formats: dict[str, int | None]) -> PredictedLayer:
        """One operation with each kind of weights."""
        found = {kind: self._time(op, bits) for kind, bits in formats.items()}
        return PredictedLayer(
            name=op.name,
            part=op.part,
            kind=op.kind,
            m=op.m,
            n=op.n * op.count,
            k=op.k,
            microseconds={kind: seconds * 1e6 for kind, (seconds, _, _) in found.items()},
            kernel={kind: kernel for kind, (_, kernel, _) in found.items()},
            limit={kind: limit for kind, (_, _, limit) in found.items()},
        )

    def _time(self, op: StepOp, bits: int | None) -> tuple[float, str, str]:
        """Seconds, kernel, limit."""
        if op.kind == "attention":
            return self._attention(op)
        if op.kind != "linear":
            return (*self._pass(op.bytes_moved), "")
        if bits is None or not op.is_quantized:
            dense = choose_dense(
                self.gpu, op.m, op.n, op.k, bytes_per_output=op.bytes_per_output,
                efficiencies=self.efficiencies,
            )  # fmt: skip
            times = f"{op.count} x " if op.count > 1 else ""
            return dense.seconds * op.count, times + _kernel_name(dense), dense.limit
        fused = choose_codebook(
            self.gpu, op.m, op.n * op.count, op.k,
            CodebookFormat.from_bits(bits, row_groups=op.row_groups),
            launcher=self.launcher, bytes_per_output=op.bytes_per_output,
            efficiencies=self.efficiencies,
        )  # fmt: skip
        return fused.seconds, _kernel_name(fused), fused.limit

    def _pass(self, num_bytes: float) -> tuple[float, str]:
        fits = num_bytes <= self.gpu.l2_bytes / 2
        rate = (
            self.gpu.l2_bytes_per_second * self.efficiencies.l2
            if fits
            else self.gpu.dram_bytes_per_second * self.efficiencies.dram
        )
        seconds = self.gpu.launch_seconds + 2 * self.gpu.memory_latency_seconds + num_bytes / rate
        return seconds, "pass"

    def _attention(self, op: StepOp) -> tuple[float, str, str]:
        flops = 4 * op.m * op.n * op.k
        tensor = flops / (self.gpu.library_flops * self.efficiencies.attention)
        moved, _ = self._pass(op.bytes_moved)
        start = self.gpu.launch_seconds + 2 * self.gpu.memory_latency_seconds
        if tensor > moved - start:
            return start + tensor, "fused_attention", "tensor"
        return moved, "fused_attention", "l2"


def _model(source: Path | str | ModelConfig) -> tuple[str, ModelConfig, bool]:
    """Name, configuration, and whether the batch is doubled."""
    if isinstance(source, ModelConfig):
        return "DiT of the given configuration", source, True
    if isinstance(source, str) and not Path(source).is_dir():
        return source, config_from_preset(source), True
    manifest = load_manifest(Path(source))
    return Path(source).name, manifest.model, manifest.cfg


def _format(kind: str) -> int | None:
    """Bits of quantized weights, None for float16."""
    match = _QUANTIZED.fullmatch(kind)
    if match:
        return int(match[1])
    if kind != "fp16":
        raise OptionError(f"weights are {kind!r}, needed fp16, 1bit, 2bit, 3bit or 4bit")
    return None


def _weight_bytes(config: ModelConfig, bits: int | None) -> int:
    if bits is not None:
        return size_from_shapes(config, bits).total_bytes
    return _HALF * sum(prod(shape) for shape in config.tensor_shapes().values())


def _kernel_name(prediction: Prediction) -> str:
    split = f" split {prediction.split_k}" if prediction.split_k > 1 else ""
    return f"{prediction.kernel} {prediction.variant}".strip() + split


def _assumptions(gpu: Gpu, efficiencies: Efficiencies) -> tuple[str, ...]:
    e = efficiencies
    assumed = sorted(name for name, source in gpu.sources.items() if source.startswith("assumed"))
    return (
        f"Nothing was measured on a GPU unless the calibration names one: {e.calibration}.",
        f"{gpu.title}: {gpu.num_sms} SMs at {gpu.clock_hz / 1e9:.2f} GHz, "
        f"{gpu.library_flops / 1e12:.1f} TFLOPS float16, "
        f"{gpu.dram_bytes_per_second / 1e9:.0f} GB/s, L2 {gpu.l2_bytes / 2**20:.0f} MiB; "
        f"assumed, not found in a document: {', '.join(assumed)}.",
        f"Shares of peak: tensor {e.library_tensor:.2f} for a GEMM library and "
        f"{e.codebook_tensor:.2f} for the codebook kernels, DRAM {e.dram:.2f}, L2 {e.l2:.2f}, "
        f"attention {e.attention:.2f}.",
        "Weights are read from DRAM in every step; activations stay in L2 where they fit half of "
        "it. Clocks are held at boost.",
        "float16: a GEMM library that chooses its tile without error, one adaLN launch per block. "
        "Quantized: the adaLN linears of all blocks in one launch; linears outside the blocks stay "
        "float16.",
        "Activations, bias, gate and residual are fused into the linears for both; every kernel "
        f"costs {gpu.launch_seconds * 1e6:.0f} us of launch inside a CUDA graph.",
        "Memory holds weights and activations; the driver's context and TensorRT's own memory come "
        "on top.",
    )
