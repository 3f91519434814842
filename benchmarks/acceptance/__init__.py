"""Parts of the GPU acceptance run; `benchmarks/gpu_acceptance.py` is the program."""
