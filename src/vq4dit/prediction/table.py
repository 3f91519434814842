"""A predicted profile as lines for a terminal, at most 80 columns wide."""

from __future__ import annotations

import textwrap

from .profile import PredictedProfile
from .step_ops import PARTS

_MIB = 1 << 20


def profile_table(profile: PredictedProfile) -> list[str]:
    """Title, time by part, the layers of the first block, memory, assumptions."""
    weights = profile.weights
    head = "".join(f"{w:>12}" for w in weights)
    rows = 2 * profile.batch if profile.cfg else profile.batch
    lines = [
        f"PREDICTED, {profile.calibration}",
        f"{profile.model} on {profile.gpu_title}, batch {profile.batch}"
        + (f" ({rows} rows with guidance)" if profile.cfg else ""),
        "",
        f"{'ms per step':<34}{head}",
    ]
    by_part = {w: profile.parts_ms(w) for w in weights}
    for part in PARTS:
        lines.append(f"  {part:<32}" + "".join(f"{by_part[w][part]:>12.3f}" for w in weights))
    lines += [
        f"  {'sum':<32}" + "".join(f"{profile.step_ms(w):>12.3f}" for w in weights),
        "",
        f"{'microseconds per launch':<34}{head}",
        *_layer_lines(profile),
        "",
        f"{'MiB':<34}{head}",
        f"  {'weights':<32}"
        + "".join(f"{profile.memory[w].weights_bytes / _MIB:>12.1f}" for w in weights),
        f"  {'activations':<32}"
        + "".join(f"{profile.memory[w].activations_bytes / _MIB:>12.1f}" for w in weights),
        f"  {'largest decoded weight':<32}"
        + "".join(f"{profile.memory[w].decoded_bytes / _MIB:>12.1f}" for w in weights),
        "",
        "Assumptions:",
    ]
    for sentence in profile.assumptions:
        lines += textwrap.wrap(sentence, 76, initial_indent="- ", subsequent_indent="  ")
    return lines


def _layer_lines(profile: PredictedProfile) -> list[str]:
    """The operations outside the blocks, those of block 0, and how each kernel is bound."""
    lines = []
    for layer in profile.layers:
        if layer.name.startswith("blocks.") and layer.name.split(".")[1] not in (
            "0",
            "adaLN_modulation",
        ):
            continue
        times = "".join(f"{layer.microseconds[w]:>12.1f}" for w in profile.weights)
        shape = f" {layer.k} -> {layer.n}" if layer.kind == "linear" else ""
        lines.append(f"  {(layer.name + shape)[:32]:<32}{times}")
        if layer.kind == "linear":
            bound = ", ".join(f"{w}: {layer.kernel[w]} ({layer.limit[w]})" for w in profile.weights)
            lines += textwrap.wrap(bound, 74, initial_indent="      ", subsequent_indent="      ")
    return lines
