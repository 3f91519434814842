// From a sum of products to an output: bias, activation, gate and residual, store.
#pragma once

#include "device.cuh"

enum : int { kNone = 0, kGeluTanh = 1, kSilu = 2, kGateResidual = 3 };
enum : int { kEpilogue = VQ_EPILOGUE };

// Residual sums stay float32 in every model (schema.py, T2).
#if VQ_EPILOGUE == 3
using Output = float;
#else
using Output = uint16;
#endif

// What the epilogue reads and writes; gate and residual only for kGateResidual.
struct Outputs {
  const uint16* bias;     // (O)
  const uint16* gate;     // (B, O)
  const float* residual;  // (M, O), M = B * sequence
  Output* y;              // (M, O)
  int out_features;       // O
  int sequence;           // rows of one sample
};

// y * sigmoid(scale): both activations are of this form.
// Where e^-scale overflows to infinity the quotient is zero, as it should be.
VQ_DEVICE float times_sigmoid(float y, float scale) {
  return __fdividef(y, 1.0f + __expf(-scale));
}

// gelu_tanh: 0.5 (1 + tanh(z)) = sigmoid(2 z), z = sqrt(2 / pi) (y + 0.044715 y^3).
VQ_DEVICE float activate(float y) {
  if (kEpilogue == kGeluTanh)
    return times_sigmoid(y, 1.5957691216057308f * (y + 0.044715f * y * y * y));
  if (kEpilogue == kSilu) return times_sigmoid(y, y);
  return y;
}

// One output; row and column must be inside.
VQ_DEVICE float finished(const Outputs& out, float sum, int row, int column) {
  const float y = activate(sum + to_float(out.bias[column]));
  if (kEpilogue != kGateResidual) return y;
  const int64 place = static_cast<int64>(row) * out.out_features + column;
  const int64 sample = row / out.sequence;
  return out.residual[place] + to_float(out.gate[sample * out.out_features + column]) * y;
}

VQ_DEVICE void store(float* target, float first, float second) {
  *reinterpret_cast<float2*>(target) = make_float2(first, second);
}
VQ_DEVICE void store(uint16* target, float first, float second) {
  *reinterpret_cast<uint32*>(target) = to_pair(first, second);
}
VQ_DEVICE void store(float* target, float value) { *target = value; }
VQ_DEVICE void store(uint16* target, float value) {
  *target = static_cast<uint16>(to_pair(value, 0.0f));
}

// Outputs (row, column) and (row, column + 1), as far as column_end. Pairs are aligned, and never
// cut by column_end, where the columns of a row group are even in number.
VQ_DEVICE void store_outputs(const Outputs& out, float first, float second, int row, int column,
                             int column_end, bool is_even) {
  if (column >= column_end) return;
  Output* target = out.y + static_cast<int64>(row) * out.out_features + column;
  const float value = finished(out, first, row, column);
  if (is_even) {
    store(target, value, finished(out, second, row, column + 1));
  } else {
    store(target, value);
    if (column + 1 < column_end) store(target + 1, finished(out, second, row, column + 1));
  }
}
