"""Times of layers by IProfiler: a double of the context, and the real class of the bindings."""

from types import SimpleNamespace

import pytest
from support_tensorrt import needs_bindings, run_with_bindings

from vq4dit.errors import Vq4ditError
from vq4dit.runtime.profiling.parts import parts_of
from vq4dit.runtime.profiling.trt_nodes import plan_node_times

LAYERS = [
    ("Reformatting CopyNode for Input Tensor 0 to x_embedder.proj", 0.001),
    ("x_embedder.proj", 0.02),
    ("blocks.0.norm1 + blocks.0.norm1.scaled", 0.01),
    ("blocks.0.attn.qkv", 0.05),
    ("latent_out", 0.002),
]


class Profiler:
    """Stands for trt.IProfiler, whose own initialisation must be called."""

    def __init__(self):
        self.is_made = True


class Context:
    """Reports layers when it is asked to, if the plan has run since."""

    enqueue_emits_profile = True
    profiler = None

    def __init__(self, layers):
        self.layers, self.runs, self.reported = layers, 0, 0

    def run(self):
        self.runs += 1

    def report_to_profiler(self):
        assert not self.enqueue_emits_profile and self.profiler.is_made
        assert self.runs == self.reported + 1
        self.reported += 1
        for name, ms in self.layers:
            self.profiler.report_layer_time(name, ms * self.runs)
        return True


TRT = SimpleNamespace(IProfiler=Profiler)


def test_each_run_has_its_layers_in_order_and_the_first_does_not_count():
    context = Context(LAYERS)
    runs = plan_node_times(TRT, context, context.run, repeats=2)
    assert [[node.name for node in run] for run in runs] == [[name for name, _ in LAYERS]] * 2
    assert [node.duration_us for node in runs[0]] == pytest.approx([2e3 * ms for _, ms in LAYERS])
    assert runs[1][1].duration_us == pytest.approx(3 * 20.0)
    assert [node.op for node in runs[0]] == ["move", *["layer"] * 4]


def test_fused_layers_have_a_part():
    context = Context(LAYERS)
    run = plan_node_times(TRT, context, context.run, repeats=1)[0]
    assert parts_of(node.name for node in run) == [
        "embedders", "embedders", "adaLN", "attention", "sampler update"
    ]  # fmt: skip


@pytest.mark.parametrize("layers", [[], None])
def test_silence_is_an_error(layers):
    context = Context(layers or [])
    if layers is None:
        context.report_to_profiler = lambda: False
    with pytest.raises(Vq4ditError, match="TensorRT gave no times of layers"):
        plan_node_times(TRT, context, context.run, repeats=1)


@needs_bindings
def test_the_real_class_takes_our_recorder(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(
        "import json\n"
        "from support_tensorrt import import_tensorrt\n"
        "from vq4dit.runtime.profiling.trt_nodes import _recorder\n"
        "trt = import_tensorrt()\n"
        "recorder = _recorder(trt)\n"
        "recorder.report_layer_time('blocks.0.attn.qkv', 0.5)\n"
        "print(json.dumps([isinstance(recorder, trt.IProfiler), recorder.layers]))\n"
    )
    assert run_with_bindings(script) == [True, [["blocks.0.attn.qkv", 0.5]]]
