// y = x W^T + bias in float16: a kernel to break, see test_mutations.py.
//
// A block computes 64 x 64 outputs with four warps: two halves of the columns of y, times two slices
// of the columns of x, whose sums are added through shared memory at the end. Tiles of x and W
// arrive by cp.async, three stages in flight; 16-byte chunk c of row r lies at c ^ (r % 8).
using half_bits = unsigned short;
using word = unsigned int;
using address = unsigned long long;

enum : int { kRows = 64, kDepth = 64, kStages = 3, kThreads = 128, kLanes = 32 };
enum : int { kRowBytes = kDepth * 2, kTileBytes = kRows * kRowBytes, kStageBytes = 2 * kTileBytes };
enum : int { kChunks = kDepth / 8, kCopyRows = kThreads / kChunks };
enum : int { kTilesM = 4, kTilesN = 4, kSums = kTilesM * kTilesN * 4 };

__device__ __forceinline__ void copy_16(word target, const half_bits* source, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(target), "l"(source),
               "r"(bytes));
}

__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;\n"); }

template <int kOpen>
__device__ __forceinline__ void wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kOpen) : "memory");
}

__device__ __forceinline__ void load_matrices(word (&d)[4], word source) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(source));
}

__device__ __forceinline__ void multiply(float (&d)[4], const word (&a)[4], word b0, word b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ word to_pair(float low, float high) {
  word pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ float to_float(half_bits value) {
  float result;
  asm("cvt.f32.f16 %0, %1;\n" : "=f"(result) : "h"(value));
  return result;
}

// One step's tile of a matrix of `rows` rows; what lies outside of it becomes zero.
__device__ __forceinline__ void copy_tile(word tile, const half_bits* matrix, int first_row,
                                          int rows, int depth, int step) {
  const int chunk = threadIdx.x % kChunks, column = step * kDepth + chunk * 8;
#pragma unroll
  for (int row = threadIdx.x / kChunks; row < kRows; row += kCopyRows) {
    const int bytes = first_row + row < rows && column < depth ? 16 : 0;
    const word target = tile + row * kRowBytes + (chunk ^ (row % 8)) * 16;
    copy_16(target, matrix + static_cast<long long>(first_row + row) * depth + column, bytes);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads)
    pipelined_gemm(const half_bits* __restrict__ x,     // (m, depth)
                   const half_bits* __restrict__ w,     // (n, depth)
                   const half_bits* __restrict__ bias,  // (n)
                   half_bits* __restrict__ y,           // (m, n), n a multiple of 8
                   int m, int n, int depth) {           // depth a multiple of 8
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ float shared_bias[kRows];
  const word tiles = static_cast<word>(__cvta_generic_to_shared(shared));
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int slice = warp / 2, warp_n = warp % 2 * 32;
  const int first_m = blockIdx.x * kRows, first_n = blockIdx.y * kRows;
  const int steps = (depth + kDepth - 1) / kDepth;

  auto copy_step = [&](int step) {
    const word stage = tiles + step % kStages * kStageBytes;
    copy_tile(stage, x, first_m, m, depth, step);
    copy_tile(stage + kTileBytes, w, first_n, n, depth, step);
  };
  for (int step = 0; step < kStages - 1; step++) {
    if (step < steps) copy_step(step);
    commit();
  }
  for (int i = threadIdx.x; i < kRows; i += kThreads)
    shared_bias[i] = first_n + i < n ? to_float(bias[first_n + i]) : 0.0f;

  float sums[kTilesM][kTilesN][4] = {};
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    wait<kStages - 2>();
    __syncthreads();  // this step's tiles are there, and those of the step before are read by none
    if (step + kStages - 1 < steps) copy_step(step + kStages - 1);
    commit();
    const word rows = tiles + step % kStages * kStageBytes + lane % 16 * kRowBytes;
#pragma unroll
    for (int product = 0; product < 2; product++) {
      const int chunk = ((slice * 2 + product) * 2 + lane / 16) ^ (lane % 8);
      word a[kTilesM][4], b[kTilesN / 2][4];
#pragma unroll
      for (int i = 0; i < kTilesM; i++)
        load_matrices(a[i], rows + i * 16 * kRowBytes + chunk * 16);
#pragma unroll
      for (int j = 0; j < kTilesN / 2; j++)
        load_matrices(b[j], rows + kTileBytes + (warp_n + j * 16) * kRowBytes + chunk * 16);
#pragma unroll
      for (int i = 0; i < kTilesM; i++)
#pragma unroll
        for (int j = 0; j < kTilesN; j++)
          multiply(sums[i][j], a[i], b[j / 2][j % 2], b[j / 2][j % 2 + 2]);
    }
  }

  // The second slice hands its sums to the first one through the tiles' memory.
  wait<0>();
  __syncthreads();  // nobody reads tiles any more
  float* own = &sums[0][0][0];
  float* exchange = reinterpret_cast<float*>(shared) + warp % 2 * kSums * kLanes + lane;
  if (slice == 1)
#pragma unroll
    for (int i = 0; i < kSums; i++) exchange[i * kLanes] = own[i];
  __syncthreads();  // the sums are there
  if (slice == 1) return;
#pragma unroll
  for (int i = 0; i < kSums; i++) own[i] += exchange[i * kLanes];

  // Even lanes store four columns of the first product of a pair, odd lanes of the second one.
  const bool is_odd = lane % 2;
#pragma unroll
  for (int i = 0; i < kTilesM; i++)
#pragma unroll
    for (int upper = 0; upper < 2; upper++) {
      const int row = first_m + i * 16 + upper * 8 + lane / 4;
#pragma unroll
      for (int j = 0; j < kTilesN; j += 2) {
        word pairs[2];
#pragma unroll
        for (int k = 0; k < 2; k++) {
          const int column = warp_n + (j + k) * 8 + lane % 4 * 2;
          pairs[k] = to_pair(sums[i][j + k][upper * 2] + shared_bias[column],
                             sums[i][j + k][upper * 2 + 1] + shared_bias[column + 1]);
        }
        const word other = __shfl_xor_sync(~0u, is_odd ? pairs[0] : pairs[1], 1);
        const int column = first_n + warp_n + (j + is_odd) * 8 + lane % 4 / 2 * 4;
        if (row < m && column < n)
          *reinterpret_cast<uint2*>(y + static_cast<long long>(row) * n + column) =
              is_odd ? make_uint2(other, pairs[1]) : make_uint2(pairs[0], other);
      }
    }
}
