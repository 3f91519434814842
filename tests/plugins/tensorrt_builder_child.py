"""Registers the plugins, then lets a C++ library ask them what TensorRT's builder asks.

Arguments: the library, the compute capability. A process of its own, see support_tensorrt.py.
"""

import ctypes
import json
import os
import sys

from support_tensorrt import import_tensorrt

import_tensorrt()

from vq4dit.plugins.schema import OPS  # noqa: E402
from vq4dit.plugins.tensorrt import register_plugins  # noqa: E402

register_plugins(int(sys.argv[2]))
library = ctypes.CDLL(sys.argv[1])
statuses = {}
for op in OPS:
    print("op", op, flush=True)
    statuses[op] = library.walk(op.encode())

# What the builder's user reads where a node is refused.
os.dup2(1, 2)
print("op refused", flush=True)
statuses["refused"] = library.refuse(b"CodebookGemm")
print(json.dumps(statuses), flush=True)
