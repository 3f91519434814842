"""Plain float16 GEMMs that the CUDA kernels are counted against."""
