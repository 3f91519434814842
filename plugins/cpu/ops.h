// The ops of domain vq4dit for ONNX Runtime's CPU provider.
#pragma once

#include "codebook_gemm.h"
#include "ort_abi.h"

namespace vq4dit {

enum class OpKind : int { kGemm = 0, kGemmResidual = 1, kDecode = 2 };
constexpr int kNumOps = 3;

// Inputs in the schema's order.
enum GemmInput : size_t { kX, kCodebook, kAssignments, kBias, kGate, kResidual };
enum DecodeInput : size_t { kDecodeCodebook, kDecodeAssignments };

inline size_t num_inputs(OpKind kind) {
  return kind == OpKind::kGemm ? 4 : kind == OpKind::kGemmResidual ? 6 : 2;
}

inline size_t codebook_input(OpKind kind) {
  return kind == OpKind::kDecode ? size_t{kDecodeCodebook} : size_t{kCodebook};
}

inline size_t assignments_input(OpKind kind) {
  return kind == OpKind::kDecode ? size_t{kDecodeAssignments} : size_t{kAssignments};
}

// An op's description together with the choices of the session that registered it. ONNX Runtime
// hands the address of `abi` back to every callback.
struct Op {
  ort::CustomOp abi;
  OpKind kind;
  Accuracy accuracy;
  const Kernels* kernels;
  const void* api_table;
};

Op make_op(OpKind kind, Accuracy accuracy, const Kernels& kernels, const void* api_table);

}  // namespace vq4dit
