// y = act(x W^T + bias) or residual + gate (x W^T + bias), W given by codebook and assignments.
//
// A block computes kBlockM x kBlockN outputs, a warp kWarpM x kWarpN of them:
//
//             kBlockN                      x tile (kStages in flight, cp.async -> ldmatrix)
//          +----+----+   warps of one      [slice][row][64 columns], 16-byte chunk c of row r
//          | w0 | w2 |   slice cover       at c ^ (r % 8): rows of a fragment meet all banks
//  kBlockM +----+----+   the tile;
//          | w1 | w3 |   kSplitK slices    W: indices global -> registers, one step ahead;
//          +----+----+   share columns     codewords shared -> registers (decoding.cuh)
//
// A step is 64 columns of x for each slice: slice s of the block's warps takes steps s, s + kSplitK,
// ... of 64 columns; their sums are added in the order of the slices at the end. An output's sum
// thus depends on kSplitK but not on the tile, on M or on the place of its row.
#include "decoding.cuh"
#include "epilogue.cuh"
#include "slices.cuh"
#include "x_tile.cuh"

enum : int { kBlockM = VQ_BLOCK_M, kBlockN = VQ_BLOCK_N, kWarpM = VQ_WARP_M, kWarpN = VQ_WARP_N };
enum : int { kStages = VQ_STAGES, kSplitK = VQ_SPLIT_K };

enum : int { kWarpsM = kBlockM / kWarpM, kWarpsN = kBlockN / kWarpN };
enum : int { kSliceWarps = kWarpsM * kWarpsN };
enum : int { kThreads = kSliceWarps * kSplitK * kLanes };
enum : int { kTilesM = kWarpM / 16, kTilesN = kWarpN / 8 };  // products of one warp

enum : int { kSliceBytes = kBlockM * kRowBytes };
enum : int { kStageBytes = kSplitK * kSliceBytes };

static_assert(kBlockM % kWarpM == 0 && kBlockN % kWarpN == 0 && kWarpM % 16 == 0 && kWarpN % 8 == 0,
              "warps must cover the tile");

// One step of one warp: sums += x tile * W tile.
VQ_DEVICE void multiply_step(float (&sums)[kTilesM][kTilesN][4],
                             const PackedIndices (&indices)[kTilesN], uint32 rows, int lane,
                             uint32 codebook, uint32 copy) {
  // ldmatrix: lane l reads chunk 2 product + l / 16 of row l % 16.
  const uint32 row = rows + (lane % 16) * kRowBytes;
#pragma unroll
  for (int product = 0; product < kStepProducts; product += kSpan) {
    uint32 a[kSpan][kTilesM][4];
#pragma unroll
    for (int k = 0; k < kSpan; k++) {
      const uint32 chunk = (2 * (product + k) + lane / 16) ^ (lane % 8);
#pragma unroll
      for (int i = 0; i < kTilesM; i++)
        load_fragment(row + i * 16 * kRowBytes + chunk * 16, a[k][i]);
    }
#pragma unroll
    for (int j = 0; j < kTilesN; j++) {
      uint32 b[kSpan * 2];
      decode(indices[j], codebook, copy, product, b);
#pragma unroll
      for (int k = 0; k < kSpan; k++)
#pragma unroll
        for (int i = 0; i < kTilesM; i++) multiply_add(sums[i][j], a[k][i], b[2 * k], b[2 * k + 1]);
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, VQ_MIN_BLOCKS) VQ_KERNEL_NAME(
    VQ_PARAMETERS) {
  extern __shared__ __align__(128) uint8 shared[];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int slice = warp / kSliceWarps, slice_warp = warp % kSliceWarps;
  const int warp_m = slice_warp % kWarpsM * kWarpM, warp_n = slice_warp / kWarpsM * kWarpN;

  const GroupTile tile(out_features, row_groups, kBlockN);
  const int first_m = blockIdx.x * kBlockM;
  const int steps = (in_features + kStepColumns - 1) / kStepColumns;
  const int iterations = (steps + kSplitK - 1) / kSplitK;

  const uint32 codebook_address = shared_address(shared);
  const uint32 tiles = codebook_address + kCodebookBytes;

  const IndexRows<kTilesN> rows(assignments, tile, warp_n, out_features, steps, lane);
  PackedIndices next[kTilesN];
  rows.load(next, slice);
  const XTile<kBlockM, kSplitK, kThreads> x_tile(x, tiles, first_m, m, in_features, threadIdx.x);
#pragma unroll
  for (int stage = 0; stage < kStages - 1; stage++) {
    if (stage < iterations) x_tile.copy(stage, stage * kStageBytes);
    commit_copies();
  }
  fill_codebook<kThreads>(codebook_address, codebook + tile.group * kCodebookSize * kSubVectorLen,
                          threadIdx.x);

  float sums[kTilesM][kTilesN][4] = {};
  const uint32 copy = lane_copy(lane);
  const uint32 warp_rows = tiles + slice * kSliceBytes + warp_m * kRowBytes;
  uint32 read_offset = 0, written_offset = (kStages - 1) * kStageBytes;  // the stages' turns
#pragma unroll 1
  for (int iteration = 0; iteration < iterations; iteration++) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // the stage is there for all, and the one to be filled next is read by none
    PackedIndices indices[kTilesN];
#pragma unroll
    for (int j = 0; j < kTilesN; j++) indices[j] = next[j];
    rows.load(next, (iteration + 1) * kSplitK + slice);
    const int ahead = iteration + kStages - 1;
    if (ahead < iterations) x_tile.copy(ahead, written_offset);
    commit_copies();
    multiply_step(sums, indices, warp_rows + read_offset, lane, codebook_address, copy);
    written_offset = read_offset;
    read_offset = read_offset == (kStages - 1) * kStageBytes ? 0 : read_offset + kStageBytes;
  }

  if (kSplitK > 1) {
    float* sums_of_slices = reinterpret_cast<float*>(shared + kCodebookBytes);
    add_slices<kSplitK, kSliceWarps, 16>(sums, sums_of_slices, slice, slice_warp, lane);
    if (slice > 0) return;
  }
  const Outputs out VQ_OUTPUTS;
  const Epilogue<kTilesM, kTilesN> epilogue{out,
                                           first_m + warp_m,
                                           tile.first + warp_n,
                                           tile.end,
                                           alignment_of(tile.group_rows, out_features),
                                           lane};
  epilogue.store<16>(sums);
}
