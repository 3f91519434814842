// Tiles of x in shared memory: [slice][row][64 columns], 16-byte chunk c of row r at c ^ (r % 8).
//
// The 8 rows of an ldmatrix meet all banks; and it is the layout with "128-byte swizzle" that wgmma
// reads, where tiles begin at multiples of 1024 bytes.
// Source: PTX ISA, "Strides" and "Swizzling modes" of "Asynchronous Warpgroup Level Matrix
// Shared Memory Layout".
#pragma once

#include "decoding.cuh"

enum : int { kChunks = kStepColumns / 8 };  // 16-byte chunks of one row and step
enum : int { kRowBytes = kStepColumns * 2 };

// Copies tiles of x of kRows rows and kSlices steps by kThreads threads; each of them always the
// same chunk of the same rows.
template <int kRows, int kSlices, int kThreads>
struct XTile {
  enum : int { kSliceBytes = kRows * kRowBytes };
  enum : int { kCopyRows = kThreads / kChunks };  // rows that all threads copy at once
  enum : int { kCopies = kRows / kCopyRows };
  static_assert(kRows % kCopyRows == 0 && kCopyRows % 8 == 0, "threads must cover the x tile");

  const uint8* x;              // this thread's chunk of row 0, step 0
  uint32 target;               // and its place in stage 0
  uint32 row_chunks[kCopies];  // rows behind the last one read that one: their sums are not stored
  int chunks_left;             // of the row, from this thread's of step 0 on

  VQ_DEVICE XTile(const uint16* x_, uint32 tiles, int first_row, int m, int in_features,
                  int thread) {
    const int row = thread / kChunks, chunk = thread % kChunks, num_chunks = in_features / 8;
    x = reinterpret_cast<const uint8*>(x_) + chunk * 16;
    target = tiles + row * kRowBytes + (chunk ^ (row % 8)) * 16;
    chunks_left = num_chunks - chunk;
#pragma unroll
    for (int i = 0; i < kCopies; i++)
      row_chunks[i] = static_cast<uint32>(min(first_row + row + i * kCopyRows, m - 1)) * num_chunks;
  }

  VQ_DEVICE void copy(int iteration, uint32 stage_offset) const {
#pragma unroll
    for (int slice = 0; slice < kSlices; slice++) {
      const int first = (iteration * kSlices + slice) * kChunks;
      const uint8* column = x + static_cast<int64>(first) * 16;
#pragma unroll
      for (int i = 0; i < kCopies; i++)
        copy_16_bytes(target + stage_offset + slice * kSliceBytes + i * kCopyRows * kRowBytes,
                      advanced<16>(column, row_chunks[i]), first < chunks_left);
    }
  }
};
