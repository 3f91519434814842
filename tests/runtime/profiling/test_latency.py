"""Summaries of measured times, and taking turns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq4dit.runtime.profiling.latency import MIN_REPEATS, fastest, latency, timed_in_turn


class Clock:
    """Seconds that only work advances."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, seconds):
        def call():
            self.now += seconds

        return call


def test_summary_of_known_times():
    found = latency([0.004, 0.001, 0.002, 0.003])
    assert found.to_dict() == pytest.approx(
        {
            "count": 4, "median_ms": 2.5, "p90_ms": 3.7, "p99_ms": 3.97, "min_ms": 1.0,
            "max_ms": 4.0, "mean_ms": 2.5, "jitter_ms": (3 + 1 + 1) / 3,
        }
    )  # fmt: skip


def test_one_run_has_no_jitter():
    assert latency([0.5]).jitter_ms == 0.0


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=60))
def test_figures_are_in_order(seconds):
    found = latency(seconds)
    assert found.min_ms <= found.median_ms <= found.p90_ms <= found.p99_ms <= found.max_ms
    assert 0 <= found.jitter_ms <= found.max_ms - found.min_ms + 1e-9 * found.max_ms


@given(st.lists(st.floats(0, 1e3), min_size=MIN_REPEATS, max_size=60))
def test_fastest_are_a_quarter_and_none_left_is_faster(seconds):
    chosen = fastest(seconds)
    rest = np.delete(np.array(seconds), chosen)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == max(MIN_REPEATS, len(seconds) // 4)
    assert not len(rest) or max(seconds[i] for i in chosen) <= rest.min()


def test_calls_take_turns_in_blocks_and_first_runs_do_not_count():
    clock, order = Clock(), []

    def call(name, seconds):
        def run():
            order.append(name)
            clock.now += seconds

        return run

    times = timed_in_turn(
        [call("a", 1.0), call("b", 2.0)], repeats=4, budget_seconds=1e6, block=2, clock=clock
    )
    assert times == [[1.0] * 4, [2.0] * 4]
    assert "".join(order) == "aaabbb" * 2


def test_a_single_call_needs_no_lead():
    clock = Clock()
    assert timed_in_turn([clock.work(1.0)], repeats=3, budget_seconds=1e6, clock=clock) == [
        [1.0] * 3
    ]
    assert clock.now == 3.0


def test_a_budget_ends_it_but_not_before_the_least_runs():
    clock = Clock()
    times = timed_in_turn([clock.work(100.0)], repeats=50, budget_seconds=1.0, clock=clock)
    assert MIN_REPEATS <= len(times[0]) < 15
    assert set(times[0]) == {100.0}
