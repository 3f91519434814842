// Stands for libcublas: a GEMM of bfloat16 matrices in column-major order, with sums in float.
// Source: cuBLAS documentation, cublasGemmEx.
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

constexpr int kTransposed = 1, kBfloat16 = 14, kComputeFloat = 68, kDefault = -1;

float load(const void* matrix, int64_t place) {
  const uint32_t bits = uint32_t{static_cast<const uint16_t*>(matrix)[place]} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

extern "C" {

int cublasCreate_v2(void** handle) {
  *handle = reinterpret_cast<void*>(4);
  return 0;
}

int cublasDestroy_v2(void* handle) { return handle != reinterpret_cast<void*>(4); }
int cublasSetStream_v2(void*, void* stream) { return stream != reinterpret_cast<void*>(3); }
int cublasSetWorkspace_v2(void*, void* workspace, size_t size) { return !workspace || size < 1024; }

// c (m, n) = alpha op(a) (m, k) op(b) (k, n) + beta c, all column-major.
int cublasGemmEx(void*, int transpose_a, int transpose_b, int m, int n, int k, const float* alpha,
                 const void* a, int a_type, int lda, const void* b, int b_type, int ldb,
                 const float* beta, void* c, int c_type, int ldc, int compute, int algorithm) {
  if (a_type != kBfloat16 || b_type != kBfloat16 || c_type != kBfloat16) return 1;
  if (compute != kComputeFloat || algorithm != kDefault || *alpha != 1 || *beta != 0) return 2;
  for (int row = 0; row < m; ++row)
    for (int column = 0; column < n; ++column) {
      float sum = 0;
      for (int i = 0; i < k; ++i) {
        const int64_t in_a = transpose_a == kTransposed ? i + int64_t{row} * lda
                                                        : row + int64_t{i} * lda;
        const int64_t in_b = transpose_b == kTransposed ? column + int64_t{i} * ldb
                                                        : i + int64_t{column} * ldb;
        sum += load(a, in_a) * load(b, in_b);
      }
      uint32_t bits;
      std::memcpy(&bits, &sum, sizeof bits);
      static_cast<uint16_t*>(c)[row + int64_t{column} * ldc] = static_cast<uint16_t>(bits >> 16);
    }
  return 0;
}
}
