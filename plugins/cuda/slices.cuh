// What GEMM and GEMV share: a block's rows of the weight, a warp's indices, sums of the slices.
#pragma once

#include "decoding.cuh"

// A block's rows of the weight. Tiles do not cross row groups, so that a block needs one codebook.
struct GroupTile {
  int group_rows;  // rows of one group, O / R
  int group;       // this block's
  int first, end;  // its first row; the end of the group

  VQ_DEVICE GroupTile(int out_features, int row_groups, int block_n) {
    group_rows = out_features / row_groups;
    const int tiles = (group_rows + block_n - 1) / block_n;
    group = blockIdx.y / tiles;
    end = (group + 1) * group_rows;
    first = group * group_rows + blockIdx.y % tiles * block_n;
  }
};

// A warp's rows of the assignments: 8 kTilesN of them, of each kTilesN for one lane. Behind the last
// row or step the last one is read again, so that no load needs a condition: such rows are not
// stored, and x is zero in such steps.
template <int kTilesN>
struct IndexRows {
  const uint8* assignments;
  int64 step_bytes;         // from one step to the next
  uint32 offsets[kTilesN];  // of this lane's bytes of its rows
  int last_step, part;

  VQ_DEVICE IndexRows(const uint8* assignments_, const GroupTile& tile, int warp_n,
                      int out_features, int steps, int lane) {
    assignments = assignments_;
    step_bytes = static_cast<int64>(out_features) * kStepBytes;
    last_step = steps - 1;
    part = lane_part(lane);
#pragma unroll
    for (int j = 0; j < kTilesN; j++)
      offsets[j] = min(tile.first + warp_n + lane / 4 + j * 8, tile.end - 1) * kStepBytes +
                   part_offset(part);
  }

  VQ_DEVICE void load(PackedIndices (&indices)[kTilesN], int step) const {
    const uint8* rows = assignments + min(step, last_step) * step_bytes;
#pragma unroll
    for (int j = 0; j < kTilesN; j++) indices[j] = load_indices(advanced<1>(rows, offsets[j]), part);
  }
};

// Adds the sums of slices 1, 2, ... to those of slice 0, in this order, through shared memory that
// nobody needs any more; of each 16 rows only the first kRows.
template <int kSlices, int kSliceWarps, int kRows, int kTilesM, int kTilesN>
VQ_DEVICE void add_slices(float (&sums)[kTilesM][kTilesN][4], float* shared, int slice,
                          int slice_warp, int lane) {
  constexpr int kUsed = kRows / 4;  // of the four sums of a product
  constexpr int kSums = kTilesM * kTilesN * kUsed;
  float* own = &sums[0][0][0];
  wait_for_copies<0>();
  __syncthreads();
  if (slice > 0) {
    float* target = shared + ((slice - 1) * kSliceWarps + slice_warp) * kSums * kLanes + lane;
#pragma unroll
    for (int i = 0; i < kSums; i++) target[i * kLanes] = own[i / kUsed * 4 + i % kUsed];
  }
  __syncthreads();
  if (slice > 0) return;
#pragma unroll
  for (int other = 1; other < kSlices; other++) {
    const float* source = shared + ((other - 1) * kSliceWarps + slice_warp) * kSums * kLanes + lane;
#pragma unroll
    for (int i = 0; i < kSums; i++) own[i / kUsed * 4 + i % kUsed] += source[i * kLanes];
  }
}
