"""Configure a build through Polygraphy on full TensorRT's real bindings, with a double builder.

Prints as JSON what the builder's configuration and its profile were told. The doubles take only
what the real classes have. A process of its own: `tensorrt_config.py JOB`.
"""

import json
import sys
from types import SimpleNamespace

from support_tensorrt import import_tensorrt

trt = import_tensorrt()

# Polygraphy and the worker import `tensorrt`, which now is the real module.
from vq4dit.engines import plan_worker  # noqa: E402
from vq4dit.engines.plan_job import PlanJob  # noqa: E402


def recorder(real, told):
    """An object that writes down calls and settings, of names that the class `real` has."""

    class Recorder:
        def __getattr__(self, name):
            getattr(real, name)  # AttributeError as the real one
            return lambda *args, **kwargs: told.append([name, *map(str, args)])

        def __setattr__(self, name, value):
            getattr(real, name)
            told.append([name, str(value)])

    return Recorder()


class Network:
    """Of a network Polygraphy asks for its inputs and layers."""

    num_inputs = 1

    def get_input(self, index):
        return SimpleNamespace(
            name="latent", shape=(-1, 4, 8, 8), dtype=trt.float32, is_shape_tensor=False
        )

    def __iter__(self):
        return iter(())


class Builder:
    """Gives recorders."""

    def __init__(self):
        self.told = []

    def create_builder_config(self):
        return recorder(trt.IBuilderConfig, self.told)

    def create_optimization_profile(self):
        return recorder(trt.IOptimizationProfile, self.told)


if __name__ == "__main__":
    builder = Builder()
    job = PlanJob.from_json(sys.argv[1])
    plan_worker.builder_config(job, trt, lambda event, **values: None)(builder, Network())
    print(json.dumps({"told": builder.told, "version": trt.__version__}))
