"""Every tolerance of the tests, each with its reason. Integers, packing and bytes: always exact."""

#: float32 kernels against the float32 reference: rounding of sums over I <= 4608 terms in another
#: order grows like sqrt(I) * 2^-24 = 4e-6 of the row's magnitude.
FP32_RELATIVE = 1e-5

#: int16 product tables: 13-bit entries per row, simulated 3e-4 on Gaussian inputs.
FAST_RELATIVE = 2e-3

#: One whole sampling step, ONNX Runtime against PyTorch or function bodies, float32: rounding of
#: depth * 5 layers; the limit that the project promises.
STEP_RELATIVE = 1e-4
