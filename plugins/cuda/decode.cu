// W = codewords by assignments, row-major, for decode-then-multiply.
//
// Eight lanes write one row and step of 64 columns, 16 bytes each, so that a warp writes four
// whole lines of 128 bytes. Lane c of a row holds columns 8 c .. 8 c + 7 of the step: registers b0
// (c even) or b1 (c odd) of product c / 2, of the four lanes of a row that decoding.cuh draws.
// A block decodes kBlockN rows by kBlockSteps steps.
#include "decoding.cuh"
#include "slices.cuh"

enum : int { kBlockN = VQ_BLOCK_N, kWarpN = VQ_WARP_N, kBlockSteps = VQ_STAGES };
enum : int { kWarps = kBlockN / kWarpN, kThreads = kWarps * kLanes };
enum : int { kRowLanes = kStepColumns / 8 };  // lanes that write one row

static_assert(kWarpN == kLanes / kRowLanes, "a warp writes four rows");

// Pair t (of four) of the lane's eight columns as one register; copy: lane_pair_copy.
VQ_DEVICE uint32 column_pair(const uint8* row_step, uint32 copy, int t, int c) {
  const int part = t * kLaneParts / 4;
  const PackedIndices indices = load_indices(row_step + part_offset(part), part);
  // The lane's index is known only at run time: move its bits to the front.
  const int number = kGroupOrder == kContiguous ? c : c / (2 * kSpan);
  const int bit = number * kIndexBits, word = bit / kWordBits;
  PackedIndices front = indices;
  const uint32 low = word == 0 ? indices.word[0] : indices.word[kIndexWords - 1];
  front.word[0] = __funnelshift_r(low, indices.word[kIndexWords - 1], bit % kWordBits);
  const uint32 row = codebook_row(front, 0);
  // Which pair of the codeword: fixed by t in contiguous order, by c in the others.
  const int pair = kGroupOrder == kContiguous ? t % (kSubVectorLen / 2) : 0;
  return load_shared(copy + row + pair * 4);
}

// The codebook's start and a copy of the codeword, with the lane's pair where c decides on it.
VQ_DEVICE uint32 lane_pair_copy(uint32 codebook, int lane) {
  if (kGroupOrder != kContiguous) return codebook + lane * 4;  // copy and pair, see codebook row
  return codebook + lane / (kSubVectorLen / 2) * kSubVectorLen * 2;
}

extern "C" __global__ void __launch_bounds__(kThreads, VQ_MIN_BLOCKS) VQ_KERNEL_NAME(
    const uint16* __restrict__ codebook,    // (R, K, d)
    const uint8* __restrict__ assignments,  // (steps, O, kStepBytes), MMA_LANES
    int out_features, int in_features, int row_groups,
    uint16* __restrict__ weight) {  // (O, I)
  extern __shared__ __align__(128) uint8 shared[];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const GroupTile tile(out_features, row_groups, kBlockN);
  const uint32 codebook_address = shared_address(shared);
  fill_codebook<kThreads>(codebook_address, codebook + tile.group * kCodebookSize * kSubVectorLen,
                          threadIdx.x);
  __syncthreads();

  const int row = tile.first + warp * kWarpN + lane / kRowLanes, c = lane % kRowLanes;
  if (row >= tile.end) return;
  const int64 step_bytes = static_cast<int64>(out_features) * kStepBytes;
  const int first_step = blockIdx.x * kBlockSteps, first_column = first_step * kStepColumns + c * 8;
  const int end_column = min(in_features, (first_step + kBlockSteps) * kStepColumns);
  const uint8* row_step =
      assignments + first_step * step_bytes + static_cast<int64>(row) * kStepBytes;
  uint16* target = weight + static_cast<int64>(row) * in_features + first_column;
  const uint32 copy = lane_pair_copy(codebook_address, lane);
#pragma unroll 2
  for (int column = first_column; column < end_column; column += kStepColumns) {
    uint32 pairs[4];
#pragma unroll
    for (int t = 0; t < 4; t++) pairs[t] = column_pair(row_step, copy, t, c);
    *reinterpret_cast<uint4*>(target) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    row_step += step_bytes;
    target += kStepColumns;
  }
}
