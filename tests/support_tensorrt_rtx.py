"""Parse and build an ONNX file with TensorRT-RTX on the CPU, in a process of its own.

TensorRT-RTX ends its process when it meets a plugin. Run as a script: prints one JSON object.
"""

import json
import subprocess
import sys
from pathlib import Path


def build_engine(path: Path) -> dict:
    """{"parsed", "errors", "engine_bytes"} of one file; "parsed" is None if the process died."""
    result = subprocess.run(
        [sys.executable, __file__, str(path)], capture_output=True, text=True, timeout=120
    )
    if result.returncode != 0:
        return {"parsed": None, "errors": [result.stderr[-2000:]], "engine_bytes": 0}
    return json.loads(result.stdout.splitlines()[-1])


def _build(path: str) -> dict:
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(path)
    errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
    if not parsed:
        return {"parsed": False, "errors": errors, "engine_bytes": 0}
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        shapes = [[n if d < 0 else d for d in tensor.shape] for n in (1, 2, 8)]
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    size = 0 if engine is None else engine.nbytes
    return {"parsed": True, "errors": errors, "engine_bytes": size}


if __name__ == "__main__":
    print(json.dumps(_build(sys.argv[1])))
