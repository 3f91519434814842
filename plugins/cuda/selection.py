"""Which kernel runs a linear: the cost model's choice, or what a measured selection says.

`choose_dense` is the baseline, a float16 GEMM library. `choose_codebook` compares our kernels and
decode-then-GEMM under what the caller can launch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vq4dit.errors import OptionError

from .codebook_format import CodebookFormat
from .cost_model import (
    gemm_shared_bytes,
    gemv_shared_bytes,
    predict_decode,
    predict_dense_gemv,
    predict_gemm,
    predict_gemv,
)
from .cost_terms import Prediction
from .efficiency import ASSUMED, Efficiencies
from .gpu_table import Gpu
from .launch_table import CODEBOOK_GEMMS, CODEBOOK_GEMVS, CODEBOOK_WGMMAS, LIBRARY_GEMMS
from .sm_limits import LARGEST_SHARED_BYTES, UNASKED_SHARED_BYTES

#: Blocks that may share one tile of y along K.
_SPLITS = (1, 2, 3, 4)
#: Columns of x per split below which none is worth its exchange.
_MIN_SPLIT_K = 256
#: Rows of x up to which our GEMV is considered: more would read the assignments again and again.
_GEMV_ROWS = 64
#: Rows of x up to which a library is taken to read its weights at full bandwidth.
_DENSE_GEMV_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """What may be launched for a quantized linear.

    Args:
        may_decode: the graph may decode the weight and multiply by a GEMM library.
        may_split: thread blocks may share a tile of y along K through a workspace. None of our
            kernels does: it is there to tell what it would bring.
        max_shared_bytes: the most dynamic shared memory of a block that the launcher asks for;
            kernels for every GPU need less than all of them have.
    """

    may_decode: bool = False
    may_split: bool = False
    max_shared_bytes: int = LARGEST_SHARED_BYTES


#: One launch of ours, no workspace: all that TensorRT's ahead-of-time plugins can do, and all that
#: the kernels need.
AHEAD_OF_TIME = Launcher()

#: The same where TensorRT does not ask for more shared memory than a launch has without asking.
UNASKED_SHARED = Launcher(max_shared_bytes=UNASKED_SHARED_BYTES)

#: As well: nodes CodebookDecode and MatMul in place of CodebookGemm.
WITH_DECODE = Launcher(may_decode=True)

#: What kernels with split-K between blocks would do.
WITH_SPLIT = Launcher(may_decode=True, may_split=True)


def choose_dense(
    gpu: Gpu,
    m: int,
    n: int,
    k: int,
    *,
    is_weight_in_l2: bool = False,
    bytes_per_output: float = 2,
    efficiencies: Efficiencies = ASSUMED,
) -> Prediction:
    """The fastest of a float16 GEMM library's launches: it is taken to choose without error."""
    candidates = [
        predict_gemm(
            gpu, tile, m, n, k, weight=None, split_k=split, is_weight_in_l2=is_weight_in_l2,
            bytes_per_output=bytes_per_output, efficiencies=efficiencies,
        )
        for tile in LIBRARY_GEMMS
        for split in _splits(k)
    ]  # fmt: skip
    if m <= _DENSE_GEMV_ROWS and not is_weight_in_l2:
        candidates.append(
            predict_dense_gemv(
                gpu, m, n, k, bytes_per_output=bytes_per_output, efficiencies=efficiencies
            )
        )
    return _fastest(candidates)


def codebook_candidates(
    gpu: Gpu,
    m: int,
    n: int,
    k: int,
    weight: CodebookFormat,
    *,
    launcher: Launcher = AHEAD_OF_TIME,
    bytes_per_output: float = 2,
    efficiencies: Efficiencies = ASSUMED,
) -> list[Prediction]:
    """Every way to run a quantized linear that the launcher has, fastest first."""
    splits = _splits(k) if launcher.may_split else (1,)
    found = [
        predict_gemm(
            gpu, tile, m, n, k, weight=weight, split_k=split, bytes_per_output=bytes_per_output,
            efficiencies=efficiencies,
        )
        for tile in (*CODEBOOK_GEMMS, *CODEBOOK_WGMMAS)
        if gemm_shared_bytes(tile, weight) <= launcher.max_shared_bytes
        for split in splits
    ]  # fmt: skip
    found += [
        predict_gemv(
            gpu, tile, m, n, k, weight=weight, bytes_per_output=bytes_per_output,
            efficiencies=efficiencies,
        )
        for tile in CODEBOOK_GEMVS
        if m <= _GEMV_ROWS
        and gemv_shared_bytes(tile, weight) <= launcher.max_shared_bytes
    ]  # fmt: skip
    if launcher.may_decode:
        found.append(
            decode_then_gemm(
                gpu, m, n, k, weight,
                bytes_per_output=bytes_per_output, efficiencies=efficiencies,
            )
        )  # fmt: skip
    return sorted((p for p in found if p is not None), key=lambda p: p.seconds)


def choose_codebook(
    gpu: Gpu,
    m: int,
    n: int,
    k: int,
    weight: CodebookFormat,
    *,
    launcher: Launcher = AHEAD_OF_TIME,
    bytes_per_output: float = 2,
    efficiencies: Efficiencies = ASSUMED,
) -> Prediction:
    """The fastest of `codebook_candidates`; OptionError where nothing can be launched."""
    found = codebook_candidates(
        gpu, m, n, k, weight, launcher=launcher, bytes_per_output=bytes_per_output,
        efficiencies=efficiencies,
    )  # fmt: skip
    return _fastest(list(found))


def decode_then_gemm(
    gpu: Gpu,
    m: int,
    n: int,
    k: int,
    weight: CodebookFormat,
    *,
    bytes_per_output: float = 2,
    efficiencies: Efficiencies = ASSUMED,
) -> Prediction:
    """Write the float16 weight into a scratch buffer, then multiply by a GEMM library."""
    decode, stays = predict_decode(gpu, n, k, weight=weight, efficiencies=efficiencies)
    gemm = choose_dense(
        gpu, m, n, k, is_weight_in_l2=stays, bytes_per_output=bytes_per_output,
        efficiencies=efficiencies,
    )  # fmt: skip
    return replace(
        gemm,
        kernel="decode_then_gemm",
        seconds=decode.seconds + gemm.seconds,
        parts=dict(gemm.parts) | {"decode": decode.seconds},
        workspace_bytes=decode.workspace_bytes + gemm.workspace_bytes,
        num_launches=2,
    )


def _splits(k: int) -> tuple[int, ...]:
    return tuple(split for split in _SPLITS if split == 1 or k // split >= _MIN_SPLIT_K)


def _fastest(candidates: list[Prediction | None]) -> Prediction:
    fitting = [candidate for candidate in candidates if candidate is not None]
    if not fitting:
        raise OptionError("no kernel of the table fits on this GPU")
    return min(fitting, key=lambda prediction: prediction.seconds)
