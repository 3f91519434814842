// y = act(x W^T + bias), or residual + gate * (x W^T + bias), with W left in its codebook form.
#pragma once

#include "kernels.h"
#include "layer.h"

namespace vq4dit {

enum class Accuracy : int { kFast = 0, kExact = 1, kInt8 = 2 };

// Everything of one call; the shapes have been checked.
struct GemmCall {
  const LayerSpec* spec;
  const int32_t* place_of_column;
  int64_t out_features;
  int64_t row_groups;
  int64_t num_rows;                    // M
  const float* x;                      // (M, I)
  const float* codebook;               // (R, K, d)
  const QuantizedCodebook* quantized;  // fast mode only
  const Int8Codebook* int8;            // int8 mode only
  const int8_t* assignments;
  const float* bias;      // (O)
  const float* gate;      // (B, O) or null
  const float* residual;  // (M, O) or null
  int64_t rows_per_gate;  // S
  float* y;               // (M, O)
};

// Runs task(user_data, i) for i in 0..total-1, on as many threads as the caller has.
using ParallelFor = void (*)(void* context, void (*task)(void*, size_t), size_t total,
                             void* user_data);

// The fast and the exact mode. Throws Error when memory for a thread's scratch runs out.
void codebook_gemm(const GemmCall& call, Accuracy accuracy, const Kernels& kernels,
                   ParallelFor parallel_for, void* context);

// The int8 mode; throws as above.
void codebook_gemm_int8(const GemmCall& call, const Kernels& kernels, ParallelFor parallel_for,
                        void* context);

}  // namespace vq4dit
