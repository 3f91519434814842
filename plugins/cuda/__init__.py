"""The op on NVIDIA GPUs: CUDA C++ kernels, what configures them, and what compiles them.

Importing it needs neither a GPU nor a compiler.
"""
