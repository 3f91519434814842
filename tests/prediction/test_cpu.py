"""The CPU model: quantities worked out by hand, costs found again, and what it must refuse."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from vq4dit.errors import OptionError
from vq4dit.prediction.cpu import (
    IMPLEMENTATIONS,
    CpuMeasurement,
    CpuModel,
    blocks_of_rows,
    fit_cpu_model,
    non_negative_least_squares,
    op_class,
    quantities,
)
from vq4dit.prediction.step_ops import StepOp

LINEAR = StepOp(name="l", part="MLP", kind="linear", m=40, n=96, k=64, is_quantized=True)


@pytest.mark.parametrize(
    ("m", "implementation", "blocks"),
    [
        (1, "fast", {32: 0, 16: 0, 8: 1}),
        (40, "fast", {32: 1, 16: 0, 8: 1}),
        (56, "fast", {32: 2, 16: 0, 8: 0}),
        (64, "fast", {32: 2, 16: 0, 8: 0}),
        (40, "exact", {16: 2, 8: 1}),
    ],
)
def test_rows_are_cut_as_the_library_does(m, implementation, blocks):
    assert blocks_of_rows(m, implementation) == blocks


def test_quantities_of_a_codebook_product_are_tables_and_look_ups():
    found = quantities(LINEAR, "fast")
    assert found["lookups_32"] == found["lookups_8"] == 16 * 96  # 64 / 4 positions, one block each
    assert found["entries_32"] == 16 * 256
    assert found["transposed"] == 40 * (96 + 64)
    grouped = quantities(replace(LINEAR, row_groups=3), "fast")
    assert grouped["entries_32"] == 3 * 16 * 256
    assert quantities(replace(LINEAR, m=3), "fast")["few_lookups"] == 3 * 16 * 96


def test_classes_tell_few_rows_and_dense_layers_apart():
    assert op_class(LINEAR, "fast") == "linear/fast"
    assert op_class(replace(LINEAR, m=4), "fast") == "linear/fast/few"
    assert op_class(replace(LINEAR, m=4), "exact") == "linear/exact"
    assert op_class(replace(LINEAR, is_quantized=False), "fast") == "linear/fp32"
    with pytest.raises(OptionError, match="'int8', needed one of fp32, fast, exact"):
        op_class(LINEAR, "int8")


def _random_linears(rng, count):
    return [
        replace(
            LINEAR,
            m=int(2 ** rng.uniform(0, 10)),
            n=3 * int(rng.integers(64, 512)),
            k=4 * int(rng.integers(16, 512)),
            row_groups=int(rng.choice([1, 3])),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("seed", range(5))
def test_costs_are_found_again_in_spite_of_some_worthless_measurements(seed, implementation):
    rng = np.random.default_rng(seed)
    ops = _random_linears(rng, 400)
    names = sorted({name for op in ops for name in quantities(op, implementation)})
    cost = {name: float(rng.uniform(0.5, 2)) for name in names}

    def true_seconds(op):
        return sum(cost[q] * amount for q, amount in quantities(op, implementation).items())

    measured = [
        CpuMeasurement(
            op=op,
            implementation=implementation,
            # in one of twenty another program had the processor
            seconds=true_seconds(op) * (4 if rng.random() < 0.05 else rng.uniform(0.98, 1.02)),
        )
        for op in ops
    ]
    model = fit_cpu_model(measured, "synthetic")
    for op in _random_linears(rng, 50):
        assert model.seconds(op, implementation) == pytest.approx(true_seconds(op), rel=0.05)


@given(seed=st.integers(0, 1000))
def test_non_negative_least_squares_agrees_with_scipy(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((12, 5))
    target = rng.standard_normal(12)
    expected, _ = nnls(matrix, target)
    np.testing.assert_allclose(non_negative_least_squares(matrix, target), expected, atol=1e-9)


def test_what_was_not_measured_is_refused():
    model = CpuModel(calibration="c", costs={"attention": {"call": 1.0}})
    with pytest.raises(OptionError, match=r"no costs of class 'linear/fast', it has attention"):
        model.seconds(LINEAR, "fast")
    with pytest.raises(OptionError, match="no measurement"):
        fit_cpu_model([], "c")
    with pytest.raises(OptionError, match="l took 0.0 s, needed more than 0"):
        fit_cpu_model([CpuMeasurement(op=LINEAR, implementation="fast", seconds=0.0)], "c")
