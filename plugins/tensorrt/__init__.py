"""The op in TensorRT: ahead-of-time plugins (TensorRT 10.9 and newer) and a C++ plugin library.

Importing it needs neither TensorRT nor a GPU nor a compiler.
"""

from .kernel_choice import kernels_digest as kernels_digest
from .qdp import register_plugins as register_plugins
