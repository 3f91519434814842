// y = x W^T + bias with W in float16: the plain counterpart of plugins/cuda/gemm.cu.
//
// Same tiles, warps, slices, stages and copies; what differs is W: a tile of it travels with the
// tile of x by cp.async and reaches registers by ldmatrix, where the codebook kernel looks codewords
// up. It is what cuda_static.py counts instructions against, not a kernel that ships. O is even.
#include "device.cuh"

enum : int { kBlockM = VQ_BLOCK_M, kBlockN = VQ_BLOCK_N, kWarpM = VQ_WARP_M, kWarpN = VQ_WARP_N };
enum : int { kStages = VQ_STAGES, kSplitK = VQ_SPLIT_K };

enum : int { kWarpsM = kBlockM / kWarpM, kWarpsN = kBlockN / kWarpN };
enum : int { kSliceWarps = kWarpsM * kWarpsN };
enum : int { kThreads = kSliceWarps * kSplitK * kLanes };
enum : int { kTilesM = kWarpM / 16, kTilesN = kWarpN / 8 };  // products of one warp

enum : int { kStepColumns = 64, kStepProducts = kStepColumns / 16 };
enum : int { kChunks = kStepColumns / 8 };       // 16-byte chunks of one row and step
enum : int { kRowBytes = kStepColumns * 2 };
enum : int { kXBytes = kBlockM * kRowBytes };
enum : int { kSliceBytes = (kBlockM + kBlockN) * kRowBytes };
enum : int { kStageBytes = kSplitK * kSliceBytes };
enum : int { kCopyRows = kThreads / kChunks };   // rows that all threads copy at once

static_assert(kTilesN % 2 == 0, "one ldmatrix reads the fragments of two tiles of W");

// Copies tiles of kRows rows of a row-major matrix; each thread always the same chunk.
template <int kRows>
struct MatrixTile {
  enum : int { kCopies = kRows / kCopyRows };
  static_assert(kRows % kCopyRows == 0 && kCopyRows % 8 == 0, "threads must cover the tile");

  const uint8* matrix;         // this thread's chunk of row 0, step 0
  uint32 target;               // and its place in stage 0
  uint32 row_chunks[kCopies];
  int chunks_left;             // of the row, from this thread's of step 0 on

  VQ_DEVICE MatrixTile(const uint16* matrix_, uint32 tiles, int first_row, int rows, int columns,
                       int thread) {
    const int row = thread / kChunks, chunk = thread % kChunks, num_chunks = columns / 8;
    matrix = reinterpret_cast<const uint8*>(matrix_) + chunk * 16;
    target = tiles + row * kRowBytes + (chunk ^ (row % 8)) * 16;
    chunks_left = num_chunks - chunk;
#pragma unroll
    for (int i = 0; i < kCopies; i++)
      row_chunks[i] =
          static_cast<uint32>(min(first_row + row + i * kCopyRows, rows - 1)) * num_chunks;
  }

  VQ_DEVICE void copy(int iteration, uint32 stage_offset) const {
#pragma unroll
    for (int slice = 0; slice < kSplitK; slice++) {
      const int first = (iteration * kSplitK + slice) * kChunks;
      const uint8* column = matrix + static_cast<int64>(first) * 16;
#pragma unroll
      for (int i = 0; i < kCopies; i++)
        copy_16_bytes(target + stage_offset + slice * kSliceBytes + i * kCopyRows * kRowBytes,
                      advanced<16>(column, row_chunks[i]), first < chunks_left);
    }
  }
};

// One step of one warp: sums += x tile * W tile.
VQ_DEVICE void multiply_step(float (&sums)[kTilesM][kTilesN][4], uint32 x_rows, uint32 w_rows,
                             int lane) {
  const uint32 x_row = x_rows + (lane % 16) * kRowBytes;
  const uint32 w_row = w_rows + (lane % 8 + lane / 16 * 8) * kRowBytes;
#pragma unroll
  for (int product = 0; product < kStepProducts; product++) {
    const uint32 x_chunk = (2 * product + lane / 16) ^ (lane % 8);
    const uint32 w_chunk = (2 * product + lane / 8 % 2) ^ (lane % 8);
    uint32 a[kTilesM][4];
#pragma unroll
    for (int i = 0; i < kTilesM; i++)
      load_fragment(x_row + i * 16 * kRowBytes + x_chunk * 16, a[i]);
#pragma unroll
    for (int j = 0; j < kTilesN; j += 2) {
      uint32 b[4];  // b0, b1 of tile j, b0, b1 of tile j + 1
      load_fragment(w_row + j * 8 * kRowBytes + w_chunk * 16, b);
#pragma unroll
      for (int i = 0; i < kTilesM; i++) {
        multiply_add(sums[i][j], a[i], b[0], b[1]);
        multiply_add(sums[i][j + 1], a[i], b[2], b[3]);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, VQ_MIN_BLOCKS) VQ_KERNEL_NAME(
    const uint16* __restrict__ x,       // (M, I)
    const uint16* __restrict__ weight,  // (O, I)
    const uint16* __restrict__ bias,    // (O)
    int m, int out_features, int in_features, uint16* __restrict__ y) {  // (M, O)
  extern __shared__ __align__(128) uint8 shared[];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int slice = warp / kSliceWarps, slice_warp = warp % kSliceWarps;
  const int warp_m = slice_warp % kWarpsM * kWarpM, warp_n = slice_warp / kWarpsM * kWarpN;
  const int first_m = blockIdx.x * kBlockM, first_n = blockIdx.y * kBlockN;
  const int steps = (in_features + kStepColumns - 1) / kStepColumns;
  const int iterations = (steps + kSplitK - 1) / kSplitK;

  const uint32 tiles = shared_address(shared);
  const MatrixTile<kBlockM> x_tile(x, tiles, first_m, m, in_features, threadIdx.x);
  const MatrixTile<kBlockN> w_tile(weight, tiles + kXBytes, first_n, out_features, in_features,
                                   threadIdx.x);
#pragma unroll
  for (int stage = 0; stage < kStages - 1; stage++) {
    if (stage < iterations) {
      x_tile.copy(stage, stage * kStageBytes);
      w_tile.copy(stage, stage * kStageBytes);
    }
    commit_copies();
  }

  float sums[kTilesM][kTilesN][4] = {};
  const uint32 x_rows = tiles + slice * kSliceBytes + warp_m * kRowBytes;
  const uint32 w_rows = tiles + slice * kSliceBytes + kXBytes + warp_n * kRowBytes;
  uint32 stage = 0, stage_ahead = (kStages - 1) * kStageBytes;  // as offsets
#pragma unroll 1
  for (int iteration = 0; iteration < iterations; iteration++) {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    const int ahead = iteration + kStages - 1;
    if (ahead < iterations) {
      x_tile.copy(ahead, stage_ahead);
      w_tile.copy(ahead, stage_ahead);
    }
    commit_copies();
    multiply_step(sums, x_rows + stage, w_rows + stage, lane);
    stage = stage == (kStages - 1) * kStageBytes ? 0 : stage + kStageBytes;
    stage_ahead = stage_ahead == (kStages - 1) * kStageBytes ? 0 : stage_ahead + kStageBytes;
  }

  if (kSplitK > 1) {  // add the sums of the slices through shared memory, slice after slice
    float* all = reinterpret_cast<float*>(shared) + slice_warp * kTilesM * kTilesN * 4 * kLanes + lane;
    float* own = &sums[0][0][0];
    wait_for_copies<0>();
    for (int turn = kSplitK - 1; turn >= 0; turn--) {
      __syncthreads();
      if (turn != slice) continue;
#pragma unroll
      for (int i = 0; i < kTilesM * kTilesN * 4; i++) {
        if (turn < kSplitK - 1) own[i] += all[i * kLanes];
        if (turn > 0) all[i * kLanes] = own[i];
      }
    }
    if (slice > 0) return;
  }
#pragma unroll
  for (int i = 0; i < kTilesM; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = first_m + warp_m + i * 16 + half * 8 + lane / 4;
      if (row >= m) continue;
#pragma unroll
      for (int j = 0; j < kTilesN; j++) {
        const int column = first_n + warp_n + j * 8 + lane % 4 * 2;
        if (column >= out_features) continue;
        const float first = sums[i][j][half * 2] + to_float(bias[column]);
        const float second = sums[i][j][half * 2 + 1] + to_float(bias[column + 1]);
        *reinterpret_cast<uint32*>(y + static_cast<int64>(row) * out_features + column) =
            to_pair(first, second);
      }
    }
}
