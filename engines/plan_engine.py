"""The TensorRT part of an engine: export in the target's form, build the plans, tell what for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vq4dit.errors import BackendUnavailable
from vq4dit.export.linear_ways import ChooseWay
from vq4dit.gpu_build import GpuBuild
from vq4dit.model_config import ModelConfig
from vq4dit.packed_plan import pack_plan
from vq4dit.runtime.gpu import Driver, Gpu, find_driver
from vq4dit.weight_source import WeightSource

from .exports import Vae, export_decoder, export_step
from .linear_choice import choose_way
from .plan_builder import PlanProgress, run_job
from .plan_cache import fetch_plan, keep_plan, plan_key, timing_cache_path
from .plan_folding import warn_if_folded
from .plan_job import PlanJob, Shapes
from .plan_memory import DEFAULT_WORKSPACE_BYTES, require_builder_memory
from .plan_options import PlanOptions
from .targets import Target

STEP_PLAN_NAME = "step.plan"
DECODER_PLAN_NAME = "decoder.plan"

#: GPUs that a TensorRT-RTX plan is for where nothing else is asked.
DEFAULT_RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")

#: Version of a builder that was installed without Python's metadata; its plans are not kept, since
#: another version could be there the next time.
_UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class BuiltPlans:
    """What building gave: the number of guided channels and the manifest's part."""

    cfg_channels: int
    build: GpuBuild


@dataclass(kw_only=True)
class PlanBuilder:
    """Builds the plans of one engine into a directory.

    Args:
        target: one of the targets that build plans.
        weights: element type of weights and arithmetic, as `--weights` takes it.
        options: checked already.
        say: called with the name of each stage.
        progress: called with a builder's phase, steps done and steps in all.
    """

    target: Target
    weights: str
    options: PlanOptions
    say: Callable[[str], None]
    progress: PlanProgress | None = None
    _version: str = field(default="", init=False)

    def build(
        self,
        source: WeightSource,
        work: Path,
        *,
        vae: Vae | None,
        cfg: bool,
        cfg_channels: int | None,
    ) -> BuiltPlans:
        """Write step.plan, and decoder.plan if a VAE is given.

        Raises:
            BackendUnavailable: no GPU where one is needed, no kernels for it, no compiler for
                them, or not enough memory.
            ArtifactError: the weights are damaged, or the builder refused the model.
        """
        driver = self._driver()
        gpu = driver.gpus[0] if driver is not None and self.target.needs_gpu_to_build else None
        if gpu is not None and self._plugin(source) == "aot":
            _require_kernels(gpu)
        with tempfile.TemporaryDirectory(prefix="onnx.", dir=work) as name:
            folder = Path(name)
            self.say("writing the step model")
            step = export_step(
                source, folder, self.target, weights=self.weights, cfg=cfg,
                cfg_channels=cfg_channels, choose_way=self._choose_way(source, gpu),
            )  # fmt: skip
            self._plan(
                folder / "step.onnx", work / STEP_PLAN_NAME,
                step_profile(source.config, self.options.batch), driver, gpu,
                plugin=self._plugin(source), decoded_bytes=max(step.decoded.values(), default=0),
            )  # fmt: skip
            warn_if_folded(
                work / STEP_PLAN_NAME, model_bytes=step.num_bytes,
                decoded_bytes=sum(step.decoded.values()),
            )  # fmt: skip
            self._pack(work / STEP_PLAN_NAME)
            if vae is not None:
                self.say("writing the decoder")
                export_decoder(vae, folder, source, weights=self.weights)
                self._plan(
                    folder / "decoder.onnx", work / DECODER_PLAN_NAME,
                    decoder_profile(source.config, vae, self.options.batch), driver, gpu,
                )  # fmt: skip
                self._pack(work / DECODER_PLAN_NAME)
        facts = replace(self._facts(source, driver, gpu), decoded_linears=tuple(step.decoded))
        return BuiltPlans(cfg_channels=step.guided_channels, build=facts)

    def _driver(self) -> Driver | None:
        driver, reason = find_driver()
        if self.target.needs_gpu_to_build and reason:
            raise BackendUnavailable(
                f"target {self.target.name!r} builds on the GPU that will run the engine, and "
                f"{reason}; build on such a machine, or with --target tensorrt-rtx, which needs "
                "no GPU to build"
            )
        return driver

    def _choose_way(self, source: WeightSource, gpu: Gpu | None) -> ChooseWay | None:
        """What export asks about each quantized linear; None where plugins run none."""
        if gpu is None or self._plugin(source) == "none":
            return None
        return choose_way(self.options.linears, device=gpu.name, batch=self.options.batch[1])

    def _plugin(self, source: WeightSource) -> str:
        """How the quantized layers of this model run in the plan."""
        names = source.config.block_linear_shapes()
        is_quantized = any(source.quantized_layer(name) is not None for name in names)
        if self.target.form != "plugin" or not is_quantized:
            return "none"
        return "aot" if self.options.plugin_library is None else "library"

    def _plan(
        self,
        onnx: Path,
        plan: Path,
        profile: dict[str, Shapes],
        driver: Driver | None,
        gpu: Gpu | None,
        *,
        plugin: str = "none",
        decoded_bytes: int = 0,
    ) -> None:
        """Build one plan, or take it from the cache."""
        environment = self._environment(driver, gpu)
        library = self.options.plugin_library if plugin == "library" else None
        job = PlanJob(
            target=self.target.name,
            onnx_path=str(onnx),
            plan_path=str(plan),
            profile=profile,
            compute_capabilities=self._capabilities(gpu),
            workspace_bytes=None if gpu is None else DEFAULT_WORKSPACE_BYTES,
            timing_cache=None if gpu is None else str(timing_cache_path(environment)),
            version_compatible=self.options.version_compatible,
            plugin=plugin,
            plugin_library=None if library is None else str(library),
        )
        self._version = environment["builder"]
        is_kept = self.options.use_cache and self._version != _UNKNOWN
        key = plan_key(job, environment=environment) if is_kept else ""
        if key and fetch_plan(key, plan):
            self.say(f"taking {plan.name} from the cache")
            return
        data = onnx.with_name(f"{onnx.name}.data")
        weight_bytes = onnx.stat().st_size + (data.stat().st_size if data.is_file() else 0)
        require_builder_memory(
            weight_bytes, gpu=gpu, workspace_bytes=DEFAULT_WORKSPACE_BYTES,
            decoded_bytes=decoded_bytes,
        )  # fmt: skip
        self.say(f"building {plan.name}")
        if job.timing_cache is not None:
            Path(job.timing_cache).parent.mkdir(parents=True, exist_ok=True)
        self._version = run_job(job, self.progress)
        if key:
            keep_plan(key, plan)

    def _pack(self, plan: Path) -> None:
        """Store a plan in less room; trtexec and Triton take TensorRT's as they are."""
        if self.target.name == "tensorrt-rtx":
            pack_plan(plan)

    def _capabilities(self, gpu: Gpu | None) -> tuple[str, ...]:
        if gpu is not None:
            return (gpu.compute_capability,)
        return self.options.compute_capabilities or DEFAULT_RTX_CAPABILITIES

    def _environment(self, driver: Driver | None, gpu: Gpu | None) -> dict[str, str]:
        """What a plan depends on besides the job."""
        values = {"builder": _version_of(self.target.packages), "vq4dit": version("vq4dit")}
        if gpu is not None and driver is not None:
            from vq4dit.plugins.tensorrt import kernels_digest

            values |= {
                "gpu": gpu.name, "sm": gpu.sm, "driver": driver.version,
                "cuda": driver.cuda_version, "kernels": kernels_digest(),
            }  # fmt: skip
        return values

    def _facts(self, source: WeightSource, driver: Driver | None, gpu: Gpu | None) -> GpuBuild:
        return GpuBuild(
            version=self._version,
            compute_capabilities=self._capabilities(gpu),
            gpu="" if gpu is None else gpu.name,
            cuda_version="" if driver is None else driver.cuda_version,
            driver_version="" if driver is None else driver.version,
            plugin=self._plugin(source),
            version_compatible=self.options.version_compatible,
            batch_opt=self.options.batch[1],
        )


def _require_kernels(gpu: Gpu) -> None:
    """Refuse a GPU that is older than our kernels, and a machine that cannot compile them.

    GPUs that are newer than an architecture of ours, such as 12.1, run its PTX.
    """
    from vq4dit.plugins.cuda.compile import SMS
    from vq4dit.plugins.cuda.nvrtc import load_nvrtc

    if int(gpu.compute_capability.replace(".", "")) < min(SMS):
        raise BackendUnavailable(
            f"{gpu.name} has compute capability {gpu.compute_capability}, the kernels need "
            f"{min(SMS) / 10} or newer; build with --target cpu or onnx"
        )
    load_nvrtc()


def step_profile(config: ModelConfig, batch: tuple[int, int, int]) -> dict[str, Shapes]:
    """Shapes of every input of the step for the smallest, usual and largest batch."""
    image = (config.in_channels, config.input_size, config.input_size)
    rest: dict[str, tuple[int, ...]] = {"latent": image, "noise": image, "history": image}
    rest |= {"coefficients": (8,), "timestep": (), "label": (), "cfg_scale": ()}
    return _profile(rest, batch)


def decoder_profile(
    config: ModelConfig, vae: Vae, batch: tuple[int, int, int]
) -> dict[str, Shapes]:
    """Shapes of the decoder's input for the smallest, usual and largest batch."""
    size = vae.latent_size(config)
    return _profile({"latent": (config.in_channels, size, size)}, batch)


def _profile(rest: dict[str, tuple[int, ...]], batch: tuple[int, int, int]) -> dict[str, Shapes]:
    low, opt, high = batch
    return {name: ((low, *s), (opt, *s), (high, *s)) for name, s in rest.items()}


def _version_of(packages: tuple[str, ...]) -> str:
    """Version of the first of these packages that is installed, _UNKNOWN if none says so."""
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return _UNKNOWN
