"""The report's section on a machine that is not here: every figure of it is predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from . import charts
from .html import cell, details, note, section, table
from .numbers import data_size, percent, ratio, three_digits


def overview_section(predictions: Sequence[Mapping[str, Any]]) -> str:
    """Predicted time and memory of a step, a line for each GPU; nothing for a single prediction."""
    if len(predictions) < 2:
        return ""
    kinds = list(dict.fromkeys(kind for found in predictions for kind in found["weights"]))
    head = ["model", "GPU"]
    for kind in kinds:
        head += [f"{escape(kind)}, ms", "memory"]
    rows = []
    for i, found in enumerate(predictions):
        at = f"predictions.{i}"
        cells = [cell(escape(found["model"])), cell(escape(found["gpu"]), css="words")]
        for kind in kinds:
            memory = found["memory_bytes"].get(kind, {}).get("total_bytes")
            where = f"{at}.memory_bytes.{kind}.total_bytes"
            cells += [
                cell(three_digits(found["step_ms"].get(kind)), f"{at}.step_ms.{kind}"),
                cell(data_size(memory), where),
            ]
        rows.append(cells)
    words = note("Predicted time and memory of one step; what the model assumes stands below.")
    return section("All predictions", words + table(head, rows, words=2), css="predicted")


def prediction_section(index: int, prediction: Mapping[str, Any]) -> str:
    """One model on one GPU; prediction: a `PredictedProfile` as plain values."""
    at, weights = f"predictions.{index}", prediction["weights"]
    rows = prediction["batch"] * (2 if prediction["cfg"] else 1)
    what = (
        f"{prediction['model']} on {prediction['gpu_title']}, batch {prediction['batch']} "
        f"({rows} rows). Calibration: {prediction['calibration']}."
    )
    bars = [
        (kind, [(part, charts.PART_CLASSES[part], ms)
                for part, ms in prediction["parts_ms"][kind].items()]) for kind in weights
    ]  # fmt: skip
    used = dict.fromkeys(part for _, parts in bars for part, _, ms in parts if ms > 0)
    assumptions = "".join(f"<li>{escape(text)}</li>" for text in prediction["assumptions"])
    body = (
        note(escape(what))
        + charts.legend({part: charts.PART_CLASSES[part] for part in used})
        + charts.stacked_bars(bars, unit="ms", label="Predicted time of a step by part of the DiT")
        + _time_table(at, prediction)
        + _memory_table(at, prediction)
        + f"<h3>Assumptions</h3><ul class='note'>{assumptions}</ul>"
        + details("every operation, predicted", _layer_table(at, prediction))
    )
    return section(
        f"{escape(prediction['model'])} on {escape(prediction['gpu_title'])}", body, css="predicted"
    )


def _time_table(at: str, prediction: Mapping[str, Any]) -> str:
    weights, parts = prediction["weights"], prediction["parts_ms"]
    rows = []
    for part in parts[weights[0]]:
        cells = [cell(part)]
        for i, kind in enumerate(weights):
            cells.append(cell(three_digits(parts[kind][part]), f"{at}.parts_ms.{kind}.{part}"))
            cells += [cell(_ratio(parts[kind][part], parts[weights[0]][part]))] if i else []
        rows.append(cells)
    total = [cell("step")]
    for i, kind in enumerate(weights):
        step = prediction["step_ms"]
        total.append(cell(three_digits(step[kind]), f"{at}.step_ms.{kind}"))
        total += [cell(_ratio(step[kind], step[weights[0]]))] if i else []
    return table(_head("predicted ms", weights), [*rows, total], has_total=True)


def _memory_table(at: str, prediction: Mapping[str, Any]) -> str:
    weights, memory = prediction["weights"], prediction["memory_bytes"]
    rows = []
    for name, key in (("weights", "weights_bytes"), ("activations", "activations_bytes"),
                      ("largest decoded weight", "decoded_bytes"),
                      ("together", "total_bytes")):  # fmt: skip
        cells = [cell(name)]
        for i, kind in enumerate(weights):
            cells.append(cell(data_size(memory[kind][key]), f"{at}.memory_bytes.{kind}.{key}"))
            cells += [cell(_ratio(memory[kind][key], memory[weights[0]][key]))] if i else []
        rows.append(cells)
    shares = [memory[kind]["total_bytes"] / prediction["gpu_memory_bytes"] for kind in weights]
    last = [cell("of the device's memory")]
    for i, share in enumerate(shares):
        last += [cell(percent(share)), *([cell("")] if i else [])]
    return table(_head("predicted memory", weights), [*rows, last])


def _layer_table(at: str, prediction: Mapping[str, Any]) -> str:
    weights = prediction["weights"]
    rows = []
    for k, layer in enumerate(prediction["layers"]):
        shape = f"{layer['m']} x {layer['k']} -> {layer['n']}" if layer["k"] else ""
        cells = [cell(escape(layer["name"])), cell(shape, css="words")]
        for kind in weights:
            time = layer["microseconds"][kind]
            cells.append(cell(three_digits(time), f"{at}.layers.{k}.microseconds.{kind}"))
            bound = f" ({layer['limit'][kind]})" if layer["limit"][kind] else ""
            cells.append(cell(escape(layer["kernel"][kind] + bound), css="words"))
        rows.append(cells)
    head = ["operation", "rows, in -> out"]
    for kind in weights:
        head += [f"{escape(kind)}, predicted us", "kernel (limit)"]
    return table(head, rows, words=2)


def _head(what: str, weights: list[str]) -> list[str]:
    """Names of the columns: each kind of weights, and its ratio to the first."""
    head = [what]
    for i, kind in enumerate(weights):
        head += [escape(kind), *([f"to {escape(weights[0])}"] if i else [])]
    return head


def _ratio(value: float, first: float) -> str:
    return ratio(value / first if first else None)
