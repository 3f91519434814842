"""Scales and elements, and that every chart is well-formed and draws what it was given."""

import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profile_document import document

from vq4dit.runtime.profiling import charts
from vq4dit.runtime.profiling.svg import Scale, element, linear_scale, log_scale, round_step


def test_attributes_and_words_are_escaped():
    text = charts.text(1, 2, '<b> & "c"', class_="a'b")
    root = ElementTree.fromstring(text)
    assert root.text == '<b> & "c"' and root.get("class") == "a'b" and root.get("x") == "1"


def test_numbers_are_short():
    found = element("rect", x=1.0, y=2.34567, stroke_width=2)
    assert found == '<rect x="1" y="2.35" stroke-width="2"></rect>'


@given(st.floats(1e-6, 1e6))
def test_steps_are_round_and_large_enough(size):
    step = round_step(size)
    digit = step / 10.0 ** math.floor(math.log10(step) + 1e-9)
    assert step >= size * (1 - 1e-6) and step <= 10 * size
    assert any(digit == pytest.approx(d) for d in (1, 2, 5, 10))


@given(st.lists(st.floats(0.001, 1e5), min_size=1, max_size=9))
def test_scales_hold_their_values_and_ticks(values):
    for scale in (linear_scale(values, 0.0, 100.0), log_scale(values, 0.0, 100.0)):
        for value in [*values, *scale.ticks()]:
            assert -1e-6 <= scale(value) <= 100 + 1e-6
        assert scale.ticks()


def test_scale_without_extent():
    assert Scale(low=3, high=3, start=10, end=20)(3) == 10


def drawn(text):
    return ElementTree.fromstring(text)


def titles(root):
    return [node.text for node in root.iter("title")]


ENGINES = document("fp", "calibrated")["engines"]
LAYERS = ENGINES[0]["layers"]["layers"]


def test_stacked_bars_are_as_long_as_their_values():
    root = drawn(charts.stacked_bars([("a", [("x", "p0", 1.0), ("y", "p1", 3.0), ("z", "p2", 0)])],
                                     unit="ms", label="l"))  # fmt: skip
    widths = [float(rect.get("width")) + 1 for rect in root.iter("rect")]
    assert len(widths) == 2 and widths[1] == pytest.approx(3 * widths[0], rel=0.01)
    assert titles(root)[1] == "a, y: 3.00 ms, 75.0 %"


def test_every_run_is_a_dot():
    root = drawn(charts.runs_chart([("a", "e0", [1.0, 2.0]), ("b", "e1", [3.0])], label="l"))
    assert len(list(root.iter("circle"))) == 3


def test_lines_have_all_batches():
    root = drawn(charts.line_chart([("a", "e0", [(1, 2.0), (8, 4.0)]), ("b", "e1", [(4, 1.0)])],
                                   unit="/s", x_name="batch", label="l"))  # fmt: skip
    assert len(list(root.iter("circle"))) == 3
    assert {"1", "4", "8"} <= {node.text for node in root.iter("text")}


def test_roofline_has_a_dot_per_layer_that_computes():
    root = drawn(charts.roofline(LAYERS, document("a")["peaks"], label="l"))
    computing = [row for row in LAYERS if row["gflops"]]
    assert len(list(root.iter("circle"))) == len(computing) > 5
    assert all(0 <= float(c.get("cy")) <= 380 for c in root.iter("circle"))


def test_map_has_a_cell_per_layer_of_a_block():
    root = drawn(charts.block_map(LAYERS, label="l"))
    in_blocks = [r for r in LAYERS if r["layer"].split(".")[1:2] and r["layer"][7:8].isdecimal()]
    assert len(list(root.iter("rect"))) == len(in_blocks) > 5
    assert charts.block_map([], label="l") == ""


def test_memory_bars_mark_the_peak():
    root = drawn(charts.memory_bars(ENGINES, label="l"))
    assert len([n for n in root.iter("line") if n.get("class") == "peak"]) == 10
    assert "fp, load: written 64.0 MiB" in titles(root)
