"""What the profiler adds to a node, and taking it off again."""

import pytest

from vq4dit.runtime.profiling.event_cost import EventCost, _reported_us, measure_event_cost
from vq4dit.runtime.session import NodeTime

COST = EventCost(per_node_us=1.5, per_tensor_us=0.1, renaming_us=0.3)


def renaming(op, microseconds, num_inputs=2):
    return NodeTime(
        name="n", op=op, duration_us=microseconds, inputs=((1,),) * num_inputs, outputs=((1,),)
    )


def test_cost_grows_with_tensors():
    assert COST.of(2) == pytest.approx(1.7)
    assert COST.of(50) == pytest.approx(6.5)


def test_an_engines_own_renaming_nodes_tell_its_cost():
    nodes = [renaming("Reshape", 3.6), renaming("Unsqueeze", 3.6), renaming("MatMul", 900.0)]
    assert COST.seen_by(nodes).per_node_us == pytest.approx(3.6 - 0.3 - 0.3)


def test_renaming_nodes_that_copy_do_not_count():
    nodes = [renaming("Reshape", 3.0)] * 3 + [renaming("Reshape", 50.0)] * 2
    assert COST.seen_by(nodes).per_node_us == pytest.approx(3.0 - 0.3 - 0.3)


def test_without_such_nodes_the_probe_counts():
    assert COST.seen_by([renaming("MatMul", 9.0)]) == COST


def test_cost_is_never_negative():
    assert COST.seen_by([renaming("Reshape", 0.1)]).per_node_us == 0.0


def test_reported_times_are_summed_run_by_run():
    node = {"cat": "Node", "name": "a_kernel_time", "dur": 2}
    run = {"cat": "Session", "name": "model_run", "dur": 9}
    assert _reported_us([node, node, run, node, run]) == [4.0, 2.0]


@pytest.mark.ort
def test_measured_cost_is_that_of_writing_some_text():
    found = measure_event_cost()
    assert 0.0 < found.renaming_us < 50.0
    assert 0.0 < found.of(2) < 200.0
    assert found.of(20) >= found.of(2)
