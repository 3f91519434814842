"""The profile as text: it fits, and it holds the figures."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profile_document import document

from vq4dit.runtime.profiling.numbers import data_size, percent, ratio, three_digits, with_unit
from vq4dit.runtime.profiling.table import WIDTH, profile_text


@pytest.mark.parametrize("names", [("a",), ("fp", "calibrated"), ("x" * 80, "y" * 80, "z" * 80)])
def test_it_fits_a_terminal(names):
    lines = profile_text(document(*names)).splitlines()
    assert max(map(len, lines)) <= WIDTH == 100


def test_it_holds_the_figures():
    text = profile_text(document("fp", "calibrated"))
    assert re.search(r"step, batch 1 +4\.3[45] +4\.85", text)
    assert "runtime, outside nodes" in text and "whole step" in text
    assert re.search(r"sum of parts over the whole: \d\d\.\d %", text)
    assert "energy: not told by this machine (found no power monitor)" in text
    assert "(2.00x)" in text and "power mode MAXN" in text


def test_what_was_not_measured_is_left_out():
    values = document("a")
    for key in ("layers", "decoder_layers", "memory", "energy", "throughput"):
        del values["engines"][0][key]
    text = profile_text(values)
    assert "layers of all blocks" not in text and "memory" not in text and "energy" not in text


def test_energy_by_source():
    values = document("a")
    values["engines"][0]["energy"]["sources"] = [
        {"source": "ina3221", "watts": 9.5, "joules_per_step": 0.05, "joules_per_image": 2.5}
    ]
    expected = "energy: ina3221 9.50 W, 0.0500 J per step, 2.50 J per picture"
    assert expected in profile_text(values)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"),
     (0.1234, "0.123"), (0.01234, "0.0123"), (-2.5, "-2.50")],
)  # fmt: skip
def test_three_digits(value, text):
    assert three_digits(value) == text


@given(st.floats(0.1, 999))
def test_three_digits_are_within_half_a_unit_of_the_third(value):
    assert float(three_digits(value)) == pytest.approx(value, rel=6e-3)


def test_units():
    assert data_size(512) == "512 B" and data_size(1536) == "1.50 KiB"
    assert data_size(3 << 30) == "3.00 GiB" and data_size(None) == "-"
    assert percent(0.1234) == "12.3 %" and percent(None) == "-"
    assert ratio(0.5) == "0.50x" and ratio(None) == "-"
    assert with_unit(2.5, "ms") == "2.50 ms" and with_unit(2048, "bytes") == "2.00 KiB"
    assert with_unit(None, "ms") == "-"
