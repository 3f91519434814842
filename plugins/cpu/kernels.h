// What the driver (codebook_gemm.cc) and the per-instruction-set kernels agree on.
//
// Plain structs of pointers, no library types: each kernel file is compiled with its own machine
// flags, and an inline function shared between them could be linked in the wrong flavour.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vq4dit {

constexpr int kWordPositions = 4;   // sub-vectors per word
constexpr int kBlockPositions = 8;  // sub-vectors per accumulation block: two words

// Chooses the functions of a vector operation by the number of lanes.
template <int Number>
struct Lanes {};

// One block of rows times one range of outputs, all inside one row group.
struct BlockTask {
  // Layer.
  int64_t in_features;
  int64_t codebook_size;
  int64_t sub_vector_len;
  int64_t num_pairs;
  int64_t num_words;
  int64_t num_sub_vectors;
  int64_t out_features;
  int64_t bytes_per_row;
  int index_bits;
  bool four_major;
  int activation;                  // enum Activation
  const int32_t* place_of_column;  // (8 * d)
  const uint8_t* assignments;      // whole tensor
  const float* codebook;           // (K, d) of this row group
  const int32_t* codebook_pairs;   // (K, num_pairs) of this row group; fast mode only
  float codebook_scale;            // fast mode only
  const float* bias;               // (O)
  // Rows.
  const float* x;   // first row of the block, row stride I
  int64_t row;      // its number in the batch
  int64_t num_rows;  // 1..BlockKernel::rows
  // Outputs [begin, begin + count).
  int64_t begin;
  int64_t count;
  // Result; gate and residual are null for the plain op.
  float* y;               // (M, O)
  const float* gate;      // (B, O)
  const float* residual;  // (M, O)
  int64_t rows_per_gate;  // S
  // Scratch of this thread, 64-byte aligned parts.
  float* columns;     // (8 * d, rows): the block's columns of x, transposed
  int32_t* pairs;     // (8, num_pairs, rows): the same in int16 pairs; fast mode only
  void* tables;       // (4 * words per pass, 2^index_bits, rows) int16 or float
  float* sums;        // (count rounded up to kOutputTile, rows), or (rows, count rounded up)
  int16_t* partial;   // (count, rows); fast mode with one word per pass only
  uint8_t* words;     // (words per pass, words_bytes); layout ROWS only
  int64_t words_bytes;
};

// Scratch for sums is rounded up to this many outputs.
constexpr int64_t kOutputTile = 256;

// Outputs of one panel of the int8 mode.
constexpr int kPanelOutputs = 64;
// Rows whose largest value is below this count as zero in the int8 mode: 127 / it is still finite.
constexpr float kSmallestRow = 1e-30f;

// Rows of x in int8, in sub-vector order: x = quantized * scale.
struct Int8Rows {
  int64_t in_features;
  int64_t sub_vector_len;
  const int32_t* place_of_column;  // (8 * d)
  const float* x;                  // (M, I)
  int64_t stride;                  // bytes of a row: those of all words' sub-vectors
  int8_t* quantized;               // (M, stride)
  float* scales;                   // (M)
  int32_t* sums;                   // (M), of the quantized row
};

// What the int8 mode needs beside a BlockTask of up to kPanelOutputs outputs.
struct Int8Panel {
  const Int8Rows* rows;
  const uint8_t* codebook;  // (2^index_bits, d) in slot order, codeword / scale + 128
  float codebook_scale;
  uint8_t* decoded;  // (stride / 4, kPanelOutputs, 4)
};

// The int8 mode on one instruction set; all give the same integers.
struct Int8Kernels {
  void (*quantize)(const Int8Rows&, int64_t begin, int64_t end);
  void (*panel)(const BlockTask&, const Int8Panel&, int64_t begin, int64_t end);
};

// A function for blocks of up to `rows` rows of x; scratch is laid out for `lanes` rows.
struct BlockKernel {
  int rows;
  int lanes;
  int words_per_pass;  // words whose tables are built and looked up together: 1 or 2
  void (*run)(const BlockTask&);
};

// Of one mode, all kernels give the same bits; ascending rows, unused places at the end empty.
struct Kernels {
  static constexpr int kMaxWidths = 4;
  const char* name;
  BlockKernel fast[kMaxWidths];
  BlockKernel exact[kMaxWidths];
  Int8Kernels int8;
};

extern const Kernels kScalarKernels;
#if defined(VQ4DIT_HAVE_X86)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512VbmiKernels;
#endif
#if defined(VQ4DIT_HAVE_NEON)
extern const Kernels kNeonKernels;
#endif

}  // namespace vq4dit
