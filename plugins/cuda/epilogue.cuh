// From a sum of products to an output: bias, activation, gate and residual, store.
#pragma once

#include "device.cuh"

enum : int { kNone = 0, kGeluTanh = 1, kSilu = 2, kGateResidual = 3 };
enum : int { kEpilogue = VQ_EPILOGUE };

// Parameters of every kernel that multiplies, in the order of parameters.py:
//   x (M, I), codebook (R, K, d), assignments (steps, O, kStepBytes) in MMA_LANES, bias (O);
//   with gate and residual: gate (B, O), residual (M, O) and the rows of x per row of gate;
//   y (M, O), float32 there: residual sums stay so in every model (schema.py, T2).
// VQ_OUTPUTS initializes Outputs from them.
#if VQ_EPILOGUE == 3
using Output = float;
#define VQ_RESIDUAL_INPUTS const uint16 *__restrict__ gate, const float *__restrict__ residual,
#define VQ_RESIDUAL_SIZES int sequence,
#define VQ_OUTPUTS {bias, gate, residual, y, m, out_features, sequence}
#else
using Output = uint16;
#define VQ_RESIDUAL_INPUTS
#define VQ_RESIDUAL_SIZES
#define VQ_OUTPUTS {bias, nullptr, nullptr, y, m, out_features, 1}
#endif
#define VQ_PARAMETERS                                                                              \
  const uint16 *__restrict__ x, const uint16 *__restrict__ codebook,                               \
      const uint8 *__restrict__ assignments, const uint16 *__restrict__ bias, VQ_RESIDUAL_INPUTS   \
      int m, int out_features, int in_features, int row_groups, VQ_RESIDUAL_SIZES                  \
      Output *__restrict__ y

// What the epilogue reads and writes; gate and residual only for kGateResidual.
struct Outputs {
  const uint16* bias;     // (O)
  const uint16* gate;     // (B, O)
  const float* residual;  // (M, O), M = B * sequence
  Output* y;              // (M, O)
  int m, out_features;    // M, O
  int sequence;           // rows of one sample
};

// y * sigmoid(scale): both activations are of this form.
// Where e^-scale overflows to infinity the quotient is zero, as it should be.
VQ_DEVICE float times_sigmoid(float y, float scale) {
  return __fdividef(y, 1.0f + __expf(-scale));
}

// gelu_tanh: 0.5 (1 + tanh(z)) = sigmoid(2 z), z = sqrt(2 / pi) (y + 0.044715 y^3).
//   = sigmoid(y (2 sqrt(2 / pi) + 2 sqrt(2 / pi) 0.044715 y^2)).
// The square is hidden from the compiler: from sm_100 on it would compute those of all sums at once,
// two by two, and run out of registers.
VQ_DEVICE float activate(float y) {
  if (kEpilogue == kGeluTanh) {
    float square;
    asm volatile("mul.f32 %0, %1, %1;\n" : "=f"(square) : "f"(y));
    return times_sigmoid(y, y * (1.5957691216057308f + 0.07135481627f * square));
  }
  if (kEpilogue == kSilu) return times_sigmoid(y, y);
  return y;
}

// A warp's sums, 16 kTilesM by 8 kTilesN: lane 4g + t holds columns 2t, 2t + 1 of rows g and g + 8
// of each 16 x 8 product (PTX ISA, "Matrix Fragments for mma.m16n8k16").
template <int kTilesM, int kTilesN>
struct Epilogue {
  Outputs out;
  int first_row, first_column;  // of the warp
  int column_end;               // of the row group
  int alignment;                // rows of the weight: a power of two that divides all of them
  int lane;

  // Stores the first kRows of each 16 rows.
  template <int kRows>
  VQ_DEVICE void store(const float (&sums)[kTilesM][kTilesN][4]) const {
    float bias[kTilesN][2];
#pragma unroll
    for (int j = 0; j < kTilesN; j++)
#pragma unroll
      for (int k = 0; k < 2; k++)
        bias[j][k] = column(j) + k < column_end ? to_float(out.bias[column(j) + k]) : 0.0f;
#pragma unroll
    for (int i = 0; i < kTilesM; i++)
#pragma unroll
      for (int half = 0; half < kRows / 8; half++) {
        float y[kTilesN][2];
#pragma unroll
        for (int j = 0; j < kTilesN; j++)
#pragma unroll
          for (int k = 0; k < 2; k++) y[j][k] = activate(sums[i][j][half * 2 + k] + bias[j][k]);
        store_row(y, first_row + i * 16 + half * 8 + lane / 4);
      }
  }

 private:
  VQ_DEVICE int column(int j) const { return first_column + j * 8 + lane % 4 * 2; }

  VQ_DEVICE void store_row(const float (&y)[kTilesN][2], int row) const {
    if constexpr (kEpilogue == kGateResidual) {
      if (row < out.m) store_gated(y, row);
    } else if (alignment >= 16) {
      store_sectors(y, row);
    } else if (row < out.m) {
      store_singly(y, out.y + static_cast<int64>(row) * out.out_features);
    }
  }

  // Of two products beside each other the even lanes of a row take the first one and the odd lanes
  // the second, so that the four lanes store the 32 bytes of a sector at once.
  VQ_DEVICE void store_sectors(const float (&y)[kTilesN][2], int row) const {
    const bool is_odd = lane % 2;
    const int start = first_column + (is_odd ? 8 : 0) + lane % 4 / 2 * 4;
    Output* target = out.y + static_cast<int64>(row) * out.out_features + start;
#pragma unroll
    for (int j = 0; j < kTilesN; j += 2) {
      const uint32 first = to_pair(y[j][0], y[j][1]), second = to_pair(y[j + 1][0], y[j + 1][1]);
      const uint32 other = __shfl_xor_sync(~0u, is_odd ? first : second, 1);
      if (row < out.m && start + j * 8 < column_end)
        *reinterpret_cast<uint2*>(target + j * 8) =
            is_odd ? make_uint2(other, second) : make_uint2(first, other);
    }
  }

  // Any alignment; target: the row.
  VQ_DEVICE void store_singly(const float (&y)[kTilesN][2], Output* target) const {
#pragma unroll
    for (int j = 0; j < kTilesN; j++)
#pragma unroll
      for (int k = 0; k < 2; k++)
        if (column(j) + k < column_end)
          target[column(j) + k] = static_cast<uint16>(to_pair(y[j][k], 0.0f));
  }

  // The four lanes of a row store 32 bytes of float32 at once as they are.
  VQ_DEVICE void store_gated(const float (&y)[kTilesN][2], int row) const {
    const int64 place = static_cast<int64>(row) * out.out_features;
    const uint16* gate = out.gate + static_cast<int64>(row / out.sequence) * out.out_features;
#pragma unroll
    for (int j = 0; j < kTilesN; j++) {
      const int first = column(j);
      if (first >= column_end) continue;
      if (alignment >= 2) {
        const float2 old = *reinterpret_cast<const float2*>(out.residual + place + first);
        const uint32 gates = *reinterpret_cast<const uint32*>(gate + first);
        *reinterpret_cast<float2*>(out.y + place + first) =
            make_float2(old.x + to_float(static_cast<uint16>(gates)) * y[j][0],
                        old.y + to_float(static_cast<uint16>(gates >> 16)) * y[j][1]);
        continue;
      }
#pragma unroll
      for (int k = 0; k < 2; k++)
        if (first + k < column_end)
          out.y[place + first + k] =
              out.residual[place + first + k] + to_float(gate[first + k]) * y[j][k];
    }
  }
};

// The largest power of two that divides both.
VQ_DEVICE int alignment_of(int a, int b) { return (a | b) & -(a | b); }
