"""Uses the acceptance run's driver and cuBLAS; prints what came of it as JSON on the last line.

Arguments: the benchmarks folder; for stage A also a case and the folder of its machine code (NVRTC
does not work beside the fake driver). In a process of its own, where libcuda.so.1 is the fake.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, sys.argv[1])

from acceptance import kernels  # noqa: E402
from acceptance.cases import all_cases  # noqa: E402
from acceptance.cublas import Cublas  # noqa: E402
from acceptance.cuda_driver import ContextLost, Device  # noqa: E402

from vq4dit.errors import BackendUnavailable  # noqa: E402


def bits(values):
    """bfloat16 of small integers, which it holds exactly."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def facts():
    device = Device()
    array = np.arange(1000, dtype=np.uint16).reshape(10, 100)
    buffer = device.upload(array)
    same = bool((buffer.download(array.shape, array.dtype) == array).all())
    buffer.fill(0xFF)
    filled = bool((buffer.download(array.shape, array.dtype) == 0xFFFF).all())
    buffer.free()
    before, after = device.event(), device.event()
    before.record()
    after.record()
    x, weight = np.arange(6).reshape(2, 3), np.arange(12).reshape(4, 3) - 5
    buffers = [device.upload(bits(x)), device.upload(bits(weight)), device.allocate(2 * 8)]
    cublas = Cublas(device)
    cublas.matmul(*buffers, m=2, n=4, k=3, dtype="bfloat16")
    product = buffers[2].download((2, 4), np.uint16).astype(np.uint32) << 16
    cublas.close()
    return {
        "name": device.name, "sm": device.compute_capability, "driver": device.driver_version,
        "memory": device.memory(), "same": same, "filled": filled,
        "microseconds": after.microseconds_since(before),
        "product": product.view(np.float32).tolist(), "expected": (x @ weight.T).tolist(),
    }  # fmt: skip


def main():
    try:
        print(json.dumps(facts() if len(sys.argv) == 2 else rows(*sys.argv[2:])), flush=True)
    except BackendUnavailable as error:
        print(json.dumps({"error": str(error)}), flush=True)
    except ContextLost as error:
        print(json.dumps({"error": f"lost: {error}"}), flush=True)


def rows(name, images):
    """A case through the whole of stage A; the fake runs no kernel, so every answer is wrong."""
    case = next(case for case in all_cases() if case.name == name)
    return kernels.measure_case(case, Device(), Path(images))


main()
