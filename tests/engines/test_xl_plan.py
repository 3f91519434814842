"""A whole DiT-XL/2 step model through TensorRT-RTX: minutes and gigabytes, so only on request.

pytest -m slow tests/engines/test_xl_plan.py
"""

from importlib.util import find_spec

import pytest
from support_export import decoded, random_source

from vq4dit.accounting import config_from_preset
from vq4dit.engines.plan_builder import run_job
from vq4dit.engines.plan_engine import DEFAULT_RTX_CAPABILITIES, step_profile
from vq4dit.engines.plan_job import PlanJob
from vq4dit.export.step import build_step_model
from vq4dit.packed_plan import pack_plan, read_packed_plan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("tensorrt_rtx") is None or find_spec("polygraphy") is None,
        reason="needs tensorrt_rtx and polygraphy",
    ),
]

#: Bytes of a stored plan over those of the ONNX model and its data. Measured 1.007 at 2 bits; the
#: plan itself has 1.080, since the text in it takes 14.8 MB, 1.3 MB when packed.
MOST_BYTES = 1.05


@pytest.fixture(autouse=True)
def on_request(request):
    if "slow" not in request.config.option.markexpr:
        pytest.skip("minutes and gigabytes: run with -m slow")


@pytest.mark.parametrize("kind", ["quantized", "dense"])
def test_plan_is_as_small_as_the_weights(tmp_path, kind):
    config = config_from_preset("DiT-XL/2")
    source = random_source(config, bits=2, row_groups=3)
    if kind == "dense":
        source = decoded(source)
    step = build_step_model(source, tmp_path, form="inlined", weights="fp16", fuse_adaln=False)
    assert (step.num_bytes > 1.3e9) == (kind == "dense")
    job = PlanJob(
        target="tensorrt-rtx", onnx_path=str(step.path), plan_path=str(tmp_path / "step.plan"),
        profile=step_profile(config, (1, 1, 1)), compute_capabilities=DEFAULT_RTX_CAPABILITIES,
    )  # fmt: skip
    run_job(job)
    plan = (tmp_path / "step.plan").read_bytes()
    assert len(plan) < step.num_bytes + 20e6
    stored = pack_plan(tmp_path / "step.plan")
    assert (stored.suffix == ".zip") == (kind == "quantized")
    assert 0.95 * step.num_bytes < stored.stat().st_size <= MOST_BYTES * step.num_bytes
    if kind == "quantized":
        assert plan.count(source.layers["blocks.27.mlp.fc2"].assignments.tobytes()) == 1
        assert read_packed_plan(stored, len(plan)) == plan
