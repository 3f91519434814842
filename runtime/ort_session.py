"""Sessions on ONNX Runtime: our native kernels where they are installed, function bodies elsewhere.

The step model carries the body of every `vq4dit` op as an ONNX function, so it runs without our
library; with the library registered ONNX Runtime prefers its kernels. onnxruntime is imported when
the first session is made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vq4dit.errors import ArtifactError, BackendUnavailable, OptionError, Vq4ditError

from .session import Floats, StepInputs

_log = logging.getLogger(__name__)

ACCURACIES = ("fast", "exact", "int8")
CPU_PROVIDERS = ("CPUExecutionProvider",)

#: Session configuration key that the native library reads when it is registered.
_ACCURACY_KEY = "vq4dit.accuracy"
_ERRORS_ONLY = 3

#: ONNX Runtime's key for the file beside an optimised graph that takes its weights.
_WEIGHTS_FILE_KEY = "session.optimized_model_external_initializers_file_name"
_MAX_THREADS = 1024


class OrtStepSession:
    """The step model on ONNX Runtime; implements `StepSession`.

    Args:
        path: the ONNX step model; its external data lies beside it.
        library: the native library with our kernels, None to run function bodies.
        accuracy: "fast" (int16 product tables), "exact" (float32), or "int8" (tokens and codewords
            in int8, about 1 % error per layer); function bodies are exact.
        threads: intra-op threads, None for ONNX Runtime's choice.
        providers: ONNX Runtime execution providers, in order of preference.
        profile_prefix: path whose name begins that of the profile which `end_profiling` writes;
            None does not profile. Profiling makes every node slower.
        optimized_path: where to write the graph as ONNX Runtime optimised it, weights beside it.
    Raises:
        OptionError: unknown accuracy, or threads below 1.
        BackendUnavailable: onnxruntime or a provider is missing, or the library does not load.
        ArtifactError: the file is not a step model that ONNX Runtime can load.
    """

    _INPUTS = {
        "latent": ("tensor(float)", 4),
        "timestep": ("tensor(float)", 1),
        "label": ("tensor(int64)", 1),
        "cfg_scale": ("tensor(float)", 1),
        "coefficients": ("tensor(float)", 2),
        "noise": ("tensor(float)", 4),
        "history": ("tensor(float)", 4),
    }
    _OUTPUTS = ["latent_out", "x_start"]

    def __init__(
        self,
        path: Path,
        *,
        library: Path | None,
        accuracy: str = "fast",
        threads: int | None = None,
        providers: Sequence[str] = CPU_PROVIDERS,
        profile_prefix: Path | None = None,
        optimized_path: Path | None = None,
    ) -> None:
        options = _session_options(threads, profile_prefix)
        if optimized_path is not None:
            options.optimized_model_filepath = str(optimized_path)
            options.add_session_config_entry(_WEIGHTS_FILE_KEY, f"{optimized_path.name}.data")
        _register_library(options, library, accuracy)
        self._session = _load(path, options, providers)
        _check_interface(path, self._session, self._INPUTS, self._OUTPUTS)
        self._names = [i.name for i in self._session.get_inputs()]

    def run(self, inputs: StepInputs) -> tuple[Floats, Floats]:
        """Run one step; returns latent_out and x_start, both (N, C, H, W) float32."""
        feeds = {name: getattr(inputs, name) for name in self._names}
        latent_out, x_start = _run(self._session, self._OUTPUTS, feeds)
        return latent_out, x_start

    def end_profiling(self) -> Path:
        """Write ONNX Runtime's profile (Chrome trace events) and give its path."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Free the session; it cannot run any more."""
        self._session = None


class OrtDecoderSession:
    """The VAE decoder on ONNX Runtime; implements `DecoderSession`. Arguments as OrtStepSession."""

    _INPUTS = {"latent": ("tensor(float)", 4)}
    _OUTPUTS = ["image"]

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        providers: Sequence[str] = CPU_PROVIDERS,
        profile_prefix: Path | None = None,
    ) -> None:
        self._session = _load(path, _session_options(threads, profile_prefix), providers)
        _check_interface(path, self._session, self._INPUTS, self._OUTPUTS)

    def decode(self, latent: Floats) -> Floats:
        """Latents (N, C, h, w) to pictures (N, C, H, W) float32, about -1..1."""
        return _run(self._session, self._OUTPUTS, {"latent": latent})[0]

    def end_profiling(self) -> Path:
        """Write ONNX Runtime's profile (Chrome trace events) and give its path."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Free the session; it cannot run any more."""
        self._session = None


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(
            f"running an engine needs onnxruntime, which does not import here ({error}); "
            "install it with: pip install onnxruntime"
        ) from None
    return onnxruntime


def _session_options(threads: int | None, profile_prefix: Path | None = None) -> Any:
    """Options common to all sessions: all graph optimisations, errors only on stderr."""
    if threads is not None and (type(threads) is not int or not 1 <= threads <= _MAX_THREADS):
        raise OptionError(f"threads is {threads!r}, needed an integer in 1..{_MAX_THREADS}")
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    return options


def _register_library(options: Any, library: Path | None, accuracy: str) -> None:
    """Register our kernels; the accuracy mode must be set before, since they read it then."""
    if accuracy not in ACCURACIES:
        raise OptionError(
            f"accuracy {accuracy!r} is unknown; needed one of {', '.join(ACCURACIES)}"
        )
    if library is None:
        return
    options.add_session_config_entry(_ACCURACY_KEY, accuracy)
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise BackendUnavailable(
            f"{library}: onnxruntime {_import_onnxruntime().__version__} does not load the native "
            f"library ({error}); install vq4dit again on this machine, or build with --target onnx"
        ) from None


def _load(path: Path, options: Any, providers: Sequence[str]) -> Any:
    onnxruntime = _import_onnxruntime()
    available = onnxruntime.get_available_providers()
    missing = [name for name in providers if name not in available]
    if missing or not providers:
        raise BackendUnavailable(
            f"ONNX Runtime provider {missing[0] if missing else '(none given)'} is not available; "
            f"found {', '.join(available)}; install the onnxruntime package that has it"
        )
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise ArtifactError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it: {error}; "
            "build the engine again"
        ) from None


def _run(session: Any, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[Floats]:
    """Run a loaded model; Vq4ditError with ONNX Runtime's own words if it fails."""
    try:
        results: list[Floats] = session.run(outputs, feeds)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise Vq4ditError(
            f"ONNX Runtime failed while it ran the model: {error}; use a smaller batch if memory "
            "ran out, else run `vq4dit verify` on the engine"
        ) from None
    return results


def _check_interface(
    path: Path, session: Any, inputs: Mapping[str, tuple[str, int]], outputs: Sequence[str]
) -> None:
    """Names, types and ranks of a loaded model; ArtifactError where they are not ours."""
    for found in session.get_inputs():
        needed = inputs.get(found.name)
        if needed != (found.type, len(found.shape)):
            raise ArtifactError(
                f"{path}: input {found.name!r} is {found.type} of rank {len(found.shape)}, "
                f"needed {needed or f'one of {list(inputs)}'}; build the engine again"
            )
    names = [output.name for output in session.get_outputs()]
    lacking = [name for name in outputs if name not in names]
    if lacking:
        raise ArtifactError(
            f"{path}: has the outputs {names}, lacks {lacking[0]!r}; build the engine again"
        )
