// y = act(x W^T + bias) or residual + gate (x W^T + bias) on Hopper, computed as y^T = W x^T.
//
// wgmma takes its second operand from shared memory and its first one from registers as well. So W
// is the first one: what decode() gives for rows g and g + 8 of W is the fragment of 16 of its
// rows, and W passes through no shared memory. x lies there in the very layout of gemm.cu.
//
//                kBlockM rows of x        a warpgroup computes 64 rows of y^T by all rows of x, one
//              +------------------+       wgmma per 16 columns; warp w rows 16w..16w+15
//   kBlockN    |   warpgroup 0    |
//   rows of W  +------------------+       kSplitK slices of warpgroups share the steps of 64
//              |   warpgroup 1    |       columns
//              +------------------+
//
//   step           s - 1                    s                          s + 1
//   products       ======================== ========================== ====    in the background
//   this warp          decode s    | issue s    decode s + 1  | issue s + 1
//                                wait for s - 1             wait for s
//
// A decoded step is kept in registers until its products are done, so there are two sets of them.
// The stage of x that step s has read is filled again from step s + 2 on: two are never in flight.
#include "decoding.cuh"
#include "epilogue.cuh"
#include "slices.cuh"
#include "wgmma.cuh"
#include "x_tile.cuh"

enum : int { kBlockM = VQ_BLOCK_M, kBlockN = VQ_BLOCK_N };
enum : int { kStages = VQ_STAGES, kSplitK = VQ_SPLIT_K };

enum : int { kWarpN = 16, kSliceWarps = kBlockN / kWarpN };
enum : int { kThreads = kSliceWarps * kSplitK * kLanes };
enum : int { kTilesM = kBlockM / 8 };  // of 8 rows of x: one warp's
enum : int { kAhead = kStages - 2 };   // stages of x in flight

enum : int { kSliceBytes = kBlockM * kRowBytes };
enum : int { kStageBytes = kSplitK * kSliceBytes };
enum : int { kSwizzledBytes = 1024 };  // where tiles may begin

static_assert(VQ_WARP_M == kBlockM && VQ_WARP_N == kWarpN, "a warp has all rows of x");
static_assert(kBlockN % 64 == 0 && kBlockM % 16 == 0, "warpgroups must cover the tile");
static_assert(kCodebookBytes % kSwizzledBytes == 0, "tiles of x follow the codebook");
static_assert(kAhead >= 1, "a stage to be read, one being read, one to be filled");

// W of one step: of each 16 columns this lane's registers of 16 rows.
struct StepRows {
  uint32 a[kStepProducts][4];

  VQ_DEVICE void decode_step(const PackedIndices (&indices)[2], uint32 codebook, uint32 copy) {
#pragma unroll
    for (int product = 0; product < kStepProducts; product += kSpan)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        uint32 b[kSpan * 2];
        decode(indices[half], codebook, copy, product, b);
#pragma unroll
        for (int k = 0; k < kSpan; k++) {
          a[product + k][half] = b[2 * k];
          a[product + k][half + 2] = b[2 * k + 1];
        }
      }
  }
};

VQ_DEVICE void multiply_step(float (&sums)[kTilesM][4], const StepRows& rows, uint32 x_stage) {
  fence_product_registers();
#pragma unroll
  for (int product = 0; product < kStepProducts; product++)
    multiply_add(sums, rows.a[product], product_rows(x_stage) + 2 * product);
  commit_products();
}

// Sums of y^T as those of y in mma.m16n8k16's layout: 16 rows of x by 8 outputs each.
VQ_DEVICE void transpose_sums(float (&sums)[1][kTilesM][4], float (&y)[kTilesM / 2][2][4]) {
#pragma unroll
  for (int i = 0; i < kTilesM; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float pair[2] = {sums[0][i][2 * half], sums[0][i][2 * half + 1]};
      transpose(pair);
      y[i / 2][half][i % 2 * 2] = pair[0];
      y[i / 2][half][i % 2 * 2 + 1] = pair[1];
    }
}

extern "C" __global__ void __launch_bounds__(kThreads, VQ_MIN_BLOCKS) VQ_KERNEL_NAME(
    VQ_PARAMETERS) {
  extern __shared__ __align__(1024) uint8 shared[];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int slice = warp / kSliceWarps, slice_warp = warp % kSliceWarps;
  const int warp_n = slice_warp * kWarpN;

  const GroupTile tile(out_features, row_groups, kBlockN);
  const int first_m = blockIdx.x * kBlockM;
  const int steps = (in_features + kStepColumns - 1) / kStepColumns;
  const int iterations = max((steps + kSplitK - 1) / kSplitK, 2);

  const uint32 codebook_address = shared_address(shared);
  const uint32 tiles = codebook_address + kCodebookBytes;

  const IndexRows<2> index_rows(assignments, tile, warp_n, out_features, steps, lane);
  PackedIndices indices[2][2];  // of two steps, in turn; loaded two steps ahead
  index_rows.load(indices[0], slice);
  index_rows.load(indices[1], kSplitK + slice);
  const XTile<kBlockM, kSplitK, kThreads> x_tile(x, tiles, first_m, m, in_features, threadIdx.x);
#pragma unroll
  for (int stage = 0; stage < kAhead; stage++) {
    if (stage < iterations) x_tile.copy(stage, stage * kStageBytes);
    commit_copies();
  }
  fill_codebook<kThreads>(codebook_address, codebook + tile.group * kCodebookSize * kSubVectorLen,
                          threadIdx.x);
  __syncthreads();

  float sums[1][kTilesM][4] = {};
  keep_in_place(sums[0]);  // not set to zero behind the fence of the first product
  uint32 copy = lane_copy(lane);
  asm volatile("" : "+r"(copy));  // a register, not computed again for every look-up
  StepRows rows[2];
  rows[0].decode_step(indices[0], codebook_address, copy);
  index_rows.load(indices[0], 2 * kSplitK + slice);

  const uint32 slice_tiles = tiles + slice * kSliceBytes;
  uint32 stage = 0;  // of the step's columns of x, in bytes
  const auto after = [](uint32 stage, int count) {
    const uint32 end = stage + count * kStageBytes;
    return end < kStages * kStageBytes ? end : end - kStages * kStageBytes;
  };
  // Begins the products of a step, whose rows of W are `own`.
  const auto multiply = [&](int iteration, const StepRows& own) {
    wait_for_copies<kAhead - 1>();
    fence_shared_for_products();
    __syncthreads();  // the stage is there for all, and the one to be filled next is read by none
    if (iteration + kAhead < iterations) x_tile.copy(iteration + kAhead, after(stage, kAhead));
    commit_copies();
    multiply_step(sums[0], own, slice_tiles + stage);
    stage = after(stage, 1);
  };
  // Decodes the step after `iteration`; no product may be reading `next` any more.
  const auto prepare = [&](int iteration, StepRows& next, PackedIndices(&its_indices)[2]) {
    next.decode_step(its_indices, codebook_address, copy);
    index_rows.load(its_indices, (iteration + 3) * kSplitK + slice);
  };
  int iteration = 0;
  if (iterations % 2) {  // two steps in a round: the odd one first
    multiply(iteration, rows[0]);
    wait_for_products<0>();
    prepare(iteration++, rows[0], indices[1]);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const PackedIndices held = indices[0][half];
      indices[0][half] = indices[1][half];
      indices[1][half] = held;
    }
  }
#pragma unroll 1
  do {
    multiply(iteration, rows[0]);
    wait_for_products<1>();  // those of the step before, which read rows[1] and its stage
    prepare(iteration++, rows[1], indices[1]);
    multiply(iteration, rows[1]);
    wait_for_products<1>();
    prepare(iteration++, rows[0], indices[0]);
  } while (iteration < iterations);
  wait_for_products<0>();
  keep_in_place(sums[0]);  // not read before

  if (kSplitK > 1) {
    float* sums_of_slices = reinterpret_cast<float*>(shared + kCodebookBytes);
    add_slices<kSplitK, kSliceWarps, 16>(sums, sums_of_slices, slice, slice_warp, lane);
    if (slice > 0) return;
  }
  // Computed again, since the loop has no registers to keep it.
  asm volatile("" : "+r"(row_groups));
  const GroupTile out_tile(out_features, row_groups, kBlockN);
  float transposed_sums[kTilesM / 2][2][4];
  transpose_sums(sums, transposed_sums);
  const Outputs out VQ_OUTPUTS;
  const Epilogue<kTilesM / 2, 2> epilogue{out,
                                          first_m,
                                          out_tile.first + warp_n,
                                          out_tile.end,
                                          alignment_of(out_tile.group_rows, out_features),
                                          lane};
  epilogue.store<16>(transposed_sums);
}
