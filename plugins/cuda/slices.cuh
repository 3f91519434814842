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

// A warp's rows of the assignments: 8 kTilesN of them, of each kTilesN for one lane.
template <int kTilesN>
struct IndexRows {
  const uint8* rows;   // this lane's row of the first 8
  int64 step_bytes;    // from one step to the next
  int rows_left;       // of the group, from this lane's first row on
  int steps, part;

  VQ_DEVICE IndexRows(const uint8* assignments, const GroupTile& tile, int warp_n,
                      int out_features, int steps_, int lane) {
    const int row = tile.first + warp_n + lane / 4;
    rows = assignments + static_cast<int64>(row) * kStepBytes;
    step_bytes = static_cast<int64>(out_features) * kStepBytes;
    rows_left = tile.end - row;
    steps = steps_;
    part = lane_part(lane);
  }

  // Zero indices where there is no such row or step.
  VQ_DEVICE void load(PackedIndices (&indices)[kTilesN], int step) const {
    const uint8* row_step = rows + step * step_bytes;
#pragma unroll
    for (int j = 0; j < kTilesN; j++) {
      indices[j] = no_indices();
      if (j * 8 < rows_left && step < steps)
        indices[j] = load_indices(row_step + j * 8 * kStepBytes, part);
    }
  }
};

// Adds the sums of slices 1, 2, ... to those of slice 0, in this order, through shared memory that
// nobody needs any more.
template <int kSlices, int kSliceWarps, int kTilesM, int kTilesN>
VQ_DEVICE void add_slices(float (&sums)[kTilesM][kTilesN][4], float* shared, int slice,
                          int slice_warp, int lane) {
  constexpr int kSums = kTilesM * kTilesN * 4;
  float* own = &sums[0][0][0];
  wait_for_copies<0>();
  __syncthreads();
  if (slice > 0) {
    float* target = shared + ((slice - 1) * kSliceWarps + slice_warp) * kSums * kLanes + lane;
#pragma unroll
    for (int i = 0; i < kSums; i++) target[i * kLanes] = own[i];
  }
  __syncthreads();
  if (slice > 0) return;
#pragma unroll
  for (int other = 1; other < kSlices; other++) {
    const float* source = shared + ((other - 1) * kSliceWarps + slice_warp) * kSums * kLanes + lane;
#pragma unroll
    for (int i = 0; i < kSums; i++) own[i] += source[i * kLanes];
  }
}
