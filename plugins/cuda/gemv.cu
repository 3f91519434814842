// y = act(x W^T + bias) for few rows of x, W given by codebook and assignments.
//
// The time is that of reading the assignments, so that they are asked for first and all at once.
// A warp computes kBlockM (8 or 16) x kWarpN outputs over every kSplitK-th step of 64 columns:
//
//   steps   0 1 2 3 | 4 5 6 7 | ...   kSplitK = 4: slice s (kBlockN / kWarpN warps) takes steps
//   slice   0 1 2 3 | 0 1 2 3 | ...   s, s + 4, ...; the sums are added in the order of slices
//
// A block holds kSplitK * kAhead steps of all rows of x at a time; before it fetches the next ones
// each warp has asked for its indices of them. x is the 16-row operand of the product; for 8 rows
// the other 8 are one row of zeros in shared memory.
#include "decoding.cuh"
#include "epilogue.cuh"
#include "slices.cuh"

enum : int { kBlockM = VQ_BLOCK_M, kBlockN = VQ_BLOCK_N, kWarpN = VQ_WARP_N };
enum : int { kAhead = VQ_STAGES, kSplitK = VQ_SPLIT_K };

enum : int { kSliceWarps = kBlockN / kWarpN };
enum : int { kThreads = kSliceWarps * kSplitK * kLanes };
enum : int { kTilesN = kWarpN / 8 };
enum : int { kHeldSteps = kSplitK * kAhead };
enum : int { kChunks = kHeldSteps * kStepColumns / 8 };  // 16-byte chunks of a row held
enum : int { kRowBytes = kChunks * 16 + 16 };  // one chunk more: rows of a fragment meet all banks

static_assert(kBlockM == 8 || kBlockM == 16, "one product has 16 rows");
static_assert(kBlockN % kWarpN == 0 && kWarpN % 8 == 0, "warps must cover the tile");

// Copies kHeldSteps steps of x from first_step on; what is outside of x becomes zero.
VQ_DEVICE void copy_x(uint32 target, const uint16* __restrict__ x, int first_row, int m,
                      int in_features, int first_step, int thread) {
  const int first_chunk = first_step * (kStepColumns / 8), num_chunks = in_features / 8;
  for (int i = thread; i < kBlockM * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool is_live = first_row + row < m && first_chunk + chunk < num_chunks;
    const int64 place =
        is_live ? static_cast<int64>(first_row + row) * num_chunks + first_chunk + chunk : 0;
    copy_16_bytes(target + row * kRowBytes + chunk * 16, x + place * 8, is_live);
  }
  commit_copies();
}

// One step of one warp: sums += x (16 x 64) * W (64 x kWarpN); row: this lane's row and chunk.
VQ_DEVICE void multiply_step(float (&sums)[1][kTilesN][4], const PackedIndices (&indices)[kTilesN],
                             uint32 row, uint32 codebook, uint32 copy) {
#pragma unroll
  for (int product = 0; product < kStepProducts; product += kSpan) {
    uint32 a[kSpan][4];
#pragma unroll
    for (int k = 0; k < kSpan; k++) load_fragment(row + (product + k) * 32, a[k]);
#pragma unroll
    for (int j = 0; j < kTilesN; j++) {
      uint32 b[kSpan * 2];
      decode(indices[j], codebook, copy, product, b);
#pragma unroll
      for (int k = 0; k < kSpan; k++) multiply_add(sums[0][j], a[k], b[2 * k], b[2 * k + 1]);
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, VQ_MIN_BLOCKS) VQ_KERNEL_NAME(
    VQ_PARAMETERS) {
  extern __shared__ __align__(128) uint8 shared[];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int slice = warp / kSliceWarps, slice_warp = warp % kSliceWarps;
  const GroupTile tile(out_features, row_groups, kBlockN);
  const int first_m = blockIdx.x * kBlockM;
  const int steps = (in_features + kStepColumns - 1) / kStepColumns;

  const IndexRows<kTilesN> rows(assignments, tile, slice_warp * kWarpN, out_features, steps, lane);
  PackedIndices ahead[kAhead][kTilesN];
#pragma unroll
  for (int i = 0; i < kAhead; i++) rows.load(ahead[i], i * kSplitK + slice);

  const uint32 codebook_address = shared_address(shared);
  const uint32 x_address = codebook_address + kCodebookBytes;
  const uint32 zeros = x_address + kBlockM * kRowBytes;
  copy_x(x_address, x, first_m, m, in_features, 0, threadIdx.x);
  fill_codebook<kThreads>(codebook_address, codebook + tile.group * kCodebookSize * kSubVectorLen,
                          threadIdx.x);
  if (kBlockM == 8 && threadIdx.x < kLanes) store_zeros(zeros + threadIdx.x * 4);

  float sums[1][kTilesN][4] = {};
  const uint32 copy = lane_copy(lane);
  // ldmatrix: lane l reads chunk l / 16 of row l % 16, or the zeros.
  const bool is_zero = kBlockM == 8 && lane % 16 >= 8;
  const uint32 own_row = is_zero ? zeros : x_address + lane % 16 * kRowBytes + lane / 16 * 16;
  const uint32 own_step = is_zero ? 0 : kStepColumns * 2;
#pragma unroll 1
  for (int held = 0; held < steps; held += kHeldSteps) {
    wait_for_copies<0>();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kAhead; i++) {
      const int step = i * kSplitK + slice;
      if (held + step >= steps) break;  // the whole warp
      multiply_step(sums, ahead[i], own_row + step * own_step, codebook_address, copy);
      rows.load(ahead[i], held + kHeldSteps + step);
    }
    if (held + kHeldSteps < steps) {
      __syncthreads();  // all have read what is overwritten now
      copy_x(x_address, x, first_m, m, in_features, held + kHeldSteps, threadIdx.x);
    }
  }

  if (kSplitK > 1) {
    float* sums_of_slices = reinterpret_cast<float*>(shared + kCodebookBytes);
    add_slices<kSplitK, kSliceWarps, kBlockM>(sums, sums_of_slices, slice, slice_warp, lane);
    if (slice > 0) return;
  }
  const Outputs out VQ_OUTPUTS;
  const Epilogue<1, kTilesN> epilogue{out,
                                           first_m,
                                           tile.first + slice_warp * kWarpN,
                                           tile.end,
                                           alignment_of(tile.group_rows, out_features),
                                           lane};
  epilogue.store<kBlockM>(sums);
}
