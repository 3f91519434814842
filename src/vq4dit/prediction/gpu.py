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
from vq4dit.plugins.cuda.linear_choice import QuantizedLinear, choose_linear
from vq4dit.plugins.cuda.selection import choose_dense

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
    may_decode: bool = True,
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
        may_decode: quantized linears run as `vq4dit build` would have it by default for this GPU
            and batch: gathered, or decoded for a GEMM library; False gathers all.
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
    machine = _Machine(gpu=target, may_decode=may_decode, efficiencies=efficiencies)
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
                weights_bytes=_weight_bytes(config, form),
                activations_bytes=activations,
                decoded_bytes=max(layer.decoded_bytes[kind] for layer in layers),
            )
            for kind, form in formats.items()
        },
        gpu_memory_bytes=target.memory_bytes,
        assumptions=_assumptions(target, efficiencies),
        calibration=efficiencies.calibration,
    )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """How one operation runs; `decoded_bytes`: of the weight that it decodes to memory."""

    seconds: float
    kernel: str
    limit: str
    decoded_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class _Machine:
    """A GPU with what launches on it and how well it does."""

    gpu: Gpu
    may_decode: bool
    efficiencies: Efficiencies

    def layer(self, op: StepOp, formats: dict[str, int | None]) -> PredictedLayer:
        """One operation with each kind of weights."""
        found = {kind: self._run(op, bits) for kind, bits in formats.items()}
        return PredictedLayer(
            name=op.name,
            part=op.part,
            kind=op.kind,
            m=op.m,
            n=op.n * op.count,
            k=op.k,
            microseconds={kind: run.seconds * 1e6 for kind, run in found.items()},
            kernel={kind: run.kernel for kind, run in found.items()},
            limit={kind: run.limit for kind, run in found.items()},
            decoded_bytes={kind: run.decoded_bytes for kind, run in found.items()},
        )

    def _run(self, op: StepOp, bits: int | None) -> _Run:
        if op.kind == "attention":
            return self._attention(op)
        if op.kind != "linear":
            return _Run(seconds=self._pass(op.bytes_moved), kernel="pass", limit="")
        if bits is None or not op.is_quantized:
            dense = choose_dense(
                self.gpu, op.m, op.n, op.k, bytes_per_output=op.bytes_per_output,
                efficiencies=self.efficiencies,
            )  # fmt: skip
            return _Run(
                seconds=dense.seconds * op.count,
                kernel=_times(op.count) + _kernel_name(dense),
                limit=dense.limit,
            )
        return self._quantized(op, bits)

    def _quantized(self, op: StepOp, bits: int) -> _Run:
        linear = QuantizedLinear(
            m=op.m, n=op.n, k=op.k,
            weight=CodebookFormat.from_bits(bits, row_groups=op.row_groups),
            is_residual=op.is_residual, count=op.count,
        )  # fmt: skip
        choice = choose_linear(
            self.gpu, linear, may_decode=self.may_decode, efficiencies=self.efficiencies
        )
        return _Run(
            seconds=choice.seconds,
            kernel=_times(choice.num_launches) + _kernel_name(choice.launch),
            limit=choice.launch.limit,
            decoded_bytes=_HALF * op.n * op.k if choice.is_decoded else 0,
        )

    def _pass(self, num_bytes: float) -> float:
        fits = num_bytes <= self.gpu.l2_bytes / 2
        rate = (
            self.gpu.l2_bytes_per_second * self.efficiencies.l2
            if fits
            else self.gpu.dram_bytes_per_second * self.efficiencies.dram
        )
        return self.gpu.launch_seconds + 2 * self.gpu.memory_latency_seconds + num_bytes / rate

    def _attention(self, op: StepOp) -> _Run:
        flops = 4 * op.m * op.n * op.k
        tensor = flops / (self.gpu.library_flops * self.efficiencies.attention)
        moved = self._pass(op.bytes_moved)
        start = self.gpu.launch_seconds + 2 * self.gpu.memory_latency_seconds
        if tensor > moved - start:
            return _Run(seconds=start + tensor, kernel="fused_attention", limit="tensor")
        return _Run(seconds=moved, kernel="fused_attention", limit="l2")


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


def _times(count: int) -> str:
    return f"{count} x " if count > 1 else ""


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
        "Quantized: gathered by one kernel, the adaLN linears of all blocks in one launch, or "
        "decoded to memory for the GEMM library where that is predicted to be faster, as `vq4dit "
        "build` chooses for this GPU and batch; linears outside the blocks stay float16.",
        "Activations, bias, gate and residual are fused into the linears for both; every kernel "
        f"costs {gpu.launch_seconds * 1e6:.0f} us of launch inside a CUDA graph.",
        "Memory holds weights, activations and the largest decoded weight, as they live one at a "
        "time; the driver's context and TensorRT's own memory come on top.",
    )
