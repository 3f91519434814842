"""A TensorRT session times its layers on the GPU double, beside the runs of steps."""

import numpy as np
import pytest
import support_gpu_double as double
from support_gpu_double import BUILD, DRIVER, CudaDouble, TensorRtDouble, plan_bytes
from support_tensorrt import needs_bindings, run_with_bindings
from tiny_engine import CONFIG, toy_step

from vq4dit.engine_files import file_entry
from vq4dit.errors import BackendUnavailable, OptionError
from vq4dit.runtime import cuda_calls, trt_plan
from vq4dit.runtime.session import StepInputs
from vq4dit.runtime.trt_session import TrtStepSession

LAYERS = [("x_embedder.proj", 0.1), ("blocks.0.attn.qkv", 0.2), ("latent_out", 0.3)]


class IProfiler:
    """Stands for TensorRT's class of this name."""


class ProfilingContext(double.IExecutionContext):
    """A context that tells a profiler of its last run when it is asked to."""

    profiler, enqueue_emits_profile, num_pending = None, True, 0

    def execute_async_v3(self, stream_handle):
        self.num_pending += 1
        return super().execute_async_v3(stream_handle)

    def report_to_profiler(self):
        assert self.num_pending == 1 and not self.enqueue_emits_profile
        self.num_pending = 0
        for name, ms in LAYERS:
            self.profiler.report_layer_time(name, ms)
        return True


@pytest.fixture
def machine(monkeypatch):
    cuda = CudaDouble()
    trt = TensorRtDouble(
        cuda,
        lambda inputs: dict(
            zip(("latent_out", "x_start"), toy_step(StepInputs(**inputs)), strict=True)
        ),
    )
    trt.IProfiler = IProfiler
    monkeypatch.setattr(double, "IExecutionContext", ProfilingContext)
    monkeypatch.setattr(cuda_calls, "import_cuda_runtime", lambda: cuda)
    monkeypatch.setattr(trt_plan, "import_runtime", lambda target, build: trt)
    monkeypatch.setattr(trt_plan, "find_driver", lambda: (DRIVER, ""))
    return trt


@pytest.fixture
def session(tmp_path, machine):
    path = tmp_path / "step.plan"
    path.write_bytes(plan_bytes(CONFIG))
    made = TrtStepSession(path, target="tensorrt", build=BUILD, entry=file_entry(path))
    yield made
    made.close()
    assert machine.cuda.is_clean()


def test_layers_of_every_run(session, step_inputs_of_two):
    runs = session.node_times(step_inputs_of_two, repeats=3)
    assert [[(n.name, n.duration_us / 1e3) for n in run] for run in runs] == [LAYERS] * 3


def test_steps_before_and_after_are_as_ever(session, machine, step_inputs_of_two):
    expected = toy_step(step_inputs_of_two)
    for _ in range(3):
        session.run(step_inputs_of_two)
    graphs = machine.cuda.count("cudaGraphLaunch")
    session.node_times(step_inputs_of_two, repeats=2)
    found = session.run(step_inputs_of_two)
    assert machine.cuda.count("cudaGraphLaunch") == graphs + 2  # the feeding run, and this one
    for array, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-6)


def test_no_memory_for_a_second_context_is_told(session, machine, step_inputs_of_two):
    machine.context_fits = False
    with pytest.raises(BackendUnavailable, match="memory"):
        session.node_times(step_inputs_of_two, repeats=1)
    machine.context_fits = True


def test_a_closed_session_tells_nothing(session, step_inputs_of_two):
    session.close()
    with pytest.raises(OptionError, match="closed"):
        session.node_times(step_inputs_of_two, repeats=1)


@needs_bindings
def test_the_real_context_has_what_is_called(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(
        "import json\n"
        "from support_tensorrt import import_tensorrt\n"
        "context = import_tensorrt().IExecutionContext\n"
        "names = ('profiler', 'enqueue_emits_profile', 'report_to_profiler')\n"
        "print(json.dumps([hasattr(context, name) for name in names]))\n"
    )
    assert run_with_bindings(script) == [True, True, True]
