// Codewords from shared memory into registers of mma.m16n8k16, without a bank conflict.
//
// A codebook row in shared memory is 128 bytes: the codeword again and again,
//
//   bank    0 1 | 2 3 | 4 5 | ... | 30 31      d = 4: 16 copies of 8 bytes
//   lane     0  |  1  |  2  | ... |  15        lanes 16..31 read in the second half of the access
//
// so that every lane of one access finds its codeword in banks of its own, whatever the indices
// are, and the address is index * 128 + a constant of the lane: one shift, one logic operation.
//
//   order       index serves       lane reads          of the row's bytes
//   mma16       b0, b1             8 bytes             8 (lane % 16)
//   mma32       b0, b1 of 2 steps  16 bytes            16 (lane % 8)
//   contiguous  b0 or b1           4 bytes             4 lane: a pair of columns of the codeword
//
// The last one works for d = 2, 4, 8 alike: lane 4g + t needs pair t of 8 columns, which is pair
// t % (d / 2) of a codeword, and that is what lies at byte 4 lane of a row of copies.
#pragma once

#include "device.cuh"

enum : int { kContiguous = 0, kMma16 = 1, kMma32 = 2 };  // GroupOrder in layout.py

enum : int { kCodebookSize = VQ_CODEBOOK_SIZE };    // K
enum : int { kSubVectorLen = VQ_SUB_VECTOR_LEN };   // d
enum : int { kIndexBits = VQ_INDEX_BITS };          // 4, 6 or 8
enum : int { kGroupOrder = VQ_GROUP_ORDER };

enum : int { kStepColumns = 64 };                   // columns of one step: 4 products of 16
enum : int { kStepProducts = kStepColumns / 16 };
enum : int { kCodebookRow = 128 };                  // bytes: all banks once

// Bytes are kept as b - 128, that is with bit 7 turned over. For 8-bit indices the codebook takes
// that up: row r holds codeword r ^ 128. Narrower indices are turned back when they are loaded.
enum : uint32 { kStoredZeros = 0x80808080u };
enum : int { kCodebookRows = 1 << kIndexBits };
enum : int { kRowFlip = kIndexBits == 8 ? 128 : 0 };
enum : int { kCodebookBytes = kCodebookRows * kCodebookRow };

// Products (16 columns) that one look-up serves, and indices of a lane for one step.
enum : int { kSpan = kGroupOrder == kMma32 ? 2 : 1 };
enum : int { kLaneIndices = kGroupOrder == kContiguous ? 8 : kStepProducts / kSpan };
enum : int { kLaneBytes = kLaneIndices * kIndexBits / 8 };
enum : int { kIndexWords = (kLaneBytes + 3) / 4 };
enum : int { kStepBytes = kStepColumns / kSubVectorLen * kIndexBits / 8 };  // one row, one step
// Lanes of a row that need different indices; 8 / d pairs of lanes share them in contiguous order.
enum : int { kLaneParts = kStepBytes / kLaneBytes };

static_assert(kLaneBytes == 2 || kLaneBytes == 4 || kLaneBytes == 6 || kLaneBytes == 8,
              "lane_bytes has no aligned load");

// The lane's indices of one row and one step, still packed.
struct PackedIndices {
  uint32 word[kIndexWords];
};

// Which of the row's parts this lane reads.
VQ_DEVICE int lane_part(int lane) { return (lane & 3) * kLaneParts / 4; }

VQ_DEVICE PackedIndices turned_back(PackedIndices indices) {
  if constexpr (kRowFlip == 0) {
#pragma unroll
    for (int i = 0; i < kIndexWords; i++) indices.word[i] ^= kStoredZeros;
  }
  return indices;
}

// Where the bytes of one part begin in the kStepBytes of a row and step: the first load of each.
VQ_DEVICE int part_offset(int part) { return part * (kLaneBytes == 6 ? 4 : kLaneBytes); }

// first: where this lane's bytes of a row and step begin (part_offset); part: lane_part.
VQ_DEVICE PackedIndices load_indices(const uint8* first, int part) {
  PackedIndices indices;
  if constexpr (kLaneBytes == 8) {
    asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];\n"
                 : "=r"(indices.word[0]), "=r"(indices.word[kIndexWords - 1])
                 : "l"(first));
  } else if constexpr (kLaneBytes == 2) {
    uint16 half;
    asm volatile("ld.global.nc.u16 %0, [%1];\n" : "=h"(half) : "l"(first));
    indices.word[0] = half;
  } else {
    asm volatile("ld.global.nc.u32 %0, [%1];\n"
                 : "=r"(indices.word[0])
                 : "l"(first));
    if constexpr (kLaneBytes == 6) {
      uint16 half;
      asm volatile("ld.global.nc.u16 %0, [%1];\n"
                   : "=h"(half)
                   : "l"(first + (kLaneParts * 4 - part * 2)));
      indices.word[kIndexWords - 1] = half;
    }
  }
  return turned_back(indices);
}

// Index number `number` of the lane as the byte offset of its codebook row: its bits, at bit 7.
VQ_DEVICE uint32 codebook_row(const PackedIndices& indices, int number) {
  constexpr int kShift = 7;
  static_assert(kCodebookRow == 1 << kShift, "row size");
  constexpr uint32 kMask = ((1u << kIndexBits) - 1) << kShift;
  const int bit = number * kIndexBits, word = bit / kWordBits, start = bit % kWordBits;
  uint32 moved;
  if (start + kIndexBits > kWordBits) {
    moved = __funnelshift_r(indices.word[word], indices.word[kIndexWords - 1], start - kShift);
  } else if (start >= kShift) {
    moved = indices.word[word] >> (start - kShift);
  } else {
    moved = indices.word[word] << (kShift - start);
  }
  return moved & kMask;
}

// Where in a codebook row this lane reads.
VQ_DEVICE uint32 lane_copy(int lane) {
  if (kGroupOrder == kMma16) return lane % 16 * 8;
  if (kGroupOrder == kMma32) return lane % 8 * 16;
  return lane * 4;
}

// Registers b0, b1 of the kSpan products from `product` on, for the row of `indices`.
// Row offset and copy have no bit in common: with |, extracting and joining are one instruction.
VQ_DEVICE void decode(const PackedIndices& indices, uint32 codebook, uint32 copy, int product,
                      uint32 (&b)[kSpan * 2]) {
  if constexpr (kGroupOrder == kContiguous) {
    b[0] = load_shared(codebook + (codebook_row(indices, 2 * product) | copy));
    b[1] = load_shared(codebook + (codebook_row(indices, 2 * product + 1) | copy));
  } else {
    load_shared(codebook + (codebook_row(indices, product / kSpan) | copy), b);
  }
}

// Fills shared memory with the codebook (K, d) by kThreads threads; a barrier must follow.
template <int kThreads>
VQ_DEVICE void fill_codebook(uint32 target, const uint16* __restrict__ codebook, int thread) {
  constexpr int kChunks = kCodebookRow / 16;  // of 16 bytes, neighbours to neighbouring threads
  const uint32* words = reinterpret_cast<const uint32*>(codebook);
#pragma unroll 4
  for (int i = thread; i < kCodebookRows * kChunks; i += kThreads) {
    const int codeword = (i / kChunks) ^ kRowFlip;
    if (codeword >= kCodebookSize) continue;
    uint32 value[4];
#pragma unroll
    for (int w = 0; w < 4; w++) {
      const int word = w % (kSubVectorLen / 2);
      value[w] = w < kSubVectorLen / 2 ? words[codeword * (kSubVectorLen / 2) + word] : value[word];
    }
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};\n" ::"r"(target + i * 16),
                 "r"(value[0]), "r"(value[1]), "r"(value[2]), "r"(value[3])
                 : "memory");
  }
}
