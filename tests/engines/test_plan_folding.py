"""The warning about plans that hold decoded weights."""

import pytest

from vq4dit.engines.plan_folding import warn_if_folded


@pytest.mark.parametrize(
    "plan_bytes, decoded_bytes, is_folded",
    [(1100, 8000, False), (4999, 8000, False), (9100, 8000, True), (9100, 0, False)],
)
def test_a_plan_as_large_as_decoded_weights_is_told(
    tmp_path, caplog, plan_bytes, decoded_bytes, is_folded
):
    path = tmp_path / "step.plan"
    path.write_bytes(bytes(plan_bytes))
    assert warn_if_folded(path, model_bytes=1000, decoded_bytes=decoded_bytes) == is_folded
    told = f"step.plan has {plan_bytes} bytes for a model of 1000: TensorRT stored decoded weights"
    assert (told in caplog.text) == is_folded
