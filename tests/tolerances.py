"""Every tolerance of the tests, each with its reason. Integers, packing and bytes: always exact."""

#: float32 kernels against the float32 reference: rounding of sums over I <= 4608 terms in another
#: order grows like sqrt(I) * 2^-24 = 4e-6 of the row's magnitude.
FP32_RELATIVE = 1e-5

#: int16 product tables: 13-bit entries per row, simulated 3e-4 on Gaussian inputs.
FAST_RELATIVE = 2e-3

#: One whole sampling step, ONNX Runtime against PyTorch or function bodies, float32: rounding of
#: depth * 5 layers; the limit that the project promises.
STEP_RELATIVE = 1e-4

#: Metrics in float64 on well-scaled matrices of at most 16 columns: eigenvalues are right to about
#: 1e-15 of the largest, their square roots near zero to 3e-8.
FLOAT64_METRIC = 1e-6

#: Function bodies in float16 against the float32 reference: inputs, products and sums rounded to
#: 11 bits, I = 64 terms; 2^-11 * sqrt(I) = 4e-3 of the row's magnitude at most.
FP16_BODY_RELATIVE = 4e-3

#: The same formula in float64 in another order: rounding of 1000 steps of 1e-16, and betas near
#: 1e-4 as differences of numbers near 1 (1e-16 / 1e-4 = 1e-12).
FP64_RELATIVE = 1e-9

#: Moments of seeded normal numbers: 4.5 standard errors, one false alarm in 150,000.
GAUSSIAN_SIGMAS = 4.5

#: One whole sampling step with int16 product tables: FAST_RELATIVE of each of depth * 5 layers adds
#: up like a random walk over the residual stream; the limit that the project promises.
FAST_STEP_RELATIVE = 2e-3

#: Fast mode of the CPU library: eight entries share int16 with one scale per row and block of
#: columns, so that outliers coarsen their own block only. Measured 1.7e-4 .. 3.7e-4 over 1 to 4
#: bits, I = 1152 and 4608, on Gaussian x, Student-t(3) and with one channel x30.
FAST_RELATIVE_PER_ROW_SCALE = 1e-3

#: Activations of the CPU library, element by element for |y| <= 12: rounding of z in e^z costs
#: |z| * 2^-24, and gelu_tanh has |z| <= 70 where its result is above 1e-30; measured 9.5e-6.
ACTIVATION_RELATIVE = 2e-5

#: Fast mode of the CPU library on the demo model's own activations, layer by layer: the limit that
#: the project promises. Measured 1.0e-4 (adaLN) to 2.9e-4 (qkv).
FAST_ON_DEMO_ACTIVATIONS = 5e-4

#: One whole sampling step in float16 with a float32 residual stream against float32: products of
#: 11-bit numbers, depth * 5 layers. Measured 8e-4 to 1.0e-3 on random models of depth 2.
FP16_STEP_RELATIVE = 4e-3

#: Whole sampling trajectories against diffusers' schedulers on the same float64 alpha_bar: the
#: limit that the project promises. DDIM and DDPM agree to 1e-14; the multistep solver of diffusers
#: rounds latents and sigmas to float32 in every step, measured 3.2e-6 over 1 to 1000 steps.
SAMPLER_RELATIVE = 1e-4

#: int8 mode of the CPU library: x and codewords rounded to 1/127 of the row's and the codebook's
#: largest value, about 4 standard deviations of Gaussian x: 4 / 127 / sqrt(12) = 0.9 % from each
#: at most; measured 1.2e-2.
INT8_RELATIVE = 2e-2

#: tanh.approx.f32 of the emulator: the largest relative error that the PTX ISA allows, 2^-11.
TANH_APPROX_RELATIVE = 2.0**-11

#: CUDA kernels on float16 against the float32 reference on the same float16 inputs, norm by norm:
#: the limit that the project promises. The output's rounding alone is 2^-11 / sqrt(3) = 2.8e-4 at
#: most; measured 1.8e-4 .. 2.3e-4.
CUDA_FP16_RELATIVE = 1e-3

#: The same on bfloat16: 8 bits instead of 11, 2.3e-3 at most; measured 1.6e-3 .. 1.8e-3.
CUDA_BF16_RELATIVE = 4e-3

#: The worst single output of a CUDA kernel, in units of its own rounding plus the outputs' root
#: mean square times the relative tolerance: one outlier would not show in the norm.
CUDA_WORST_OUTPUT = 2.0

#: float32 sums rounded to float16: a relative error between 0 and 2^-11 for each output, of which
#: the root mean square is 2.1e-4; sums in another order add less than a tenth of it.
FP16_OUTPUT_RELATIVE = 2.5e-4

#: The same for bfloat16, whose last place is eight times as large.
BF16_OUTPUT_RELATIVE = 8 * FP16_OUTPUT_RELATIVE

#: Gaussian noise against pinned numbers, relative: float64 logarithm and cosine of another machine
#: may differ in the last digit, which can round a float32 the other way.
PINNED_NOISE = 3e-7

#: Final latents of another target after a few steps, relative to the largest: function bodies
#: against the native kernels, by accuracy mode. The demonstration model's are 1.5e-6 and 1.1e-3
#: apart after 20 steps of DDIM.
OTHER_TARGET_LATENT = {"exact": 2e-5, "fast": 5e-3}

#: Levels of 255 between their pictures; the demonstration model's are at most 2 apart.
OTHER_TARGET_LEVELS = 3
