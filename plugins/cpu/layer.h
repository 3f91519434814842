// One vector-quantized layer as the kernels see it: the op's attributes, and views of its tensors.
//
// Same vocabulary as plugins/layout.py: O out_features, I in_features, K codewords, d sub-vector
// length, G = I / d sub-vectors per row, R row groups. A word is four packed indices of one output.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace vq4dit {

// Thrown by the checks; turned into an ONNX Runtime status at the library's border.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class GroupOrder : int { kContiguous = 0, kMma16 = 1, kMma32 = 2 };
enum class AssignmentLayout : int { kRows = 0, kFourMajor = 1 };
enum class Activation : int { kNone = 0, kGeluTanh = 1, kSilu = 2 };

// Longest sub-vector for which the int16 sums of the fast mode are proved not to overflow
// (README.md, "Error bound").
constexpr int64_t kMaxSubVectorLen = 4096;

// The attributes of a node and what follows from them.
struct LayerSpec {
  int64_t in_features = 0;
  int64_t codebook_size = 0;
  int64_t sub_vector_len = 0;
  GroupOrder group_order = GroupOrder::kContiguous;
  AssignmentLayout assignment_layout = AssignmentLayout::kRows;
  Activation activation = Activation::kNone;

  int64_t num_sub_vectors() const { return in_features / sub_vector_len; }
  int index_bits() const { return codebook_size <= 16 ? 4 : codebook_size <= 64 ? 6 : 8; }
  int word_bytes() const { return kWordPositions * index_bits() / 8; }
  int64_t num_words() const { return (num_sub_vectors() + kWordPositions - 1) / kWordPositions; }
  int64_t bytes_per_row() const;
  // Pairs of columns of a sub-vector, the last one padded with a zero column where d is odd.
  int64_t num_pairs() const { return (sub_vector_len + 1) / 2; }

  // Throws Error where a value is out of range or the sizes do not fit each other.
  void check() const;
  // O of an assignments tensor of this shape; Error where the shape does not belong here.
  int64_t out_features_from(const std::vector<int64_t>& assignments_shape) const;
  // Place in the concatenated sub-vectors of each of the block's 8 * d columns.
  std::vector<int32_t> place_of_column() const;
};

// Throws Error naming the first assignment >= K. `assignments` are the packed bytes of O outputs.
void check_assignments(const LayerSpec& spec, const int8_t* assignments, int64_t out_features);

// Writes rows [begin, end) of the weight W (O, I).
void decode_rows(const LayerSpec& spec, const float* codebook, int64_t row_groups,
                 const int8_t* assignments, int64_t out_features, int64_t begin, int64_t end,
                 float* weight);

// A codebook in int16 for the fast mode: value = int16 * scale, one scale per row group.
struct QuantizedCodebook {
  // (R, K, num_pairs) and num_pairs more; two int16 in each, the first in the low half.
  std::vector<int32_t> pairs;
  std::vector<float> scales;   // (R); NaN where the group holds a non-finite value
};

QuantizedCodebook quantize_codebook(const LayerSpec& spec, const float* codebook,
                                    int64_t row_groups);

// A codebook in int8: value = (byte - 128) * scale, one scale per row group.
struct Int8Codebook {
  std::vector<uint8_t> bytes;  // (R, 2^index_bits, d), in the order of the stored indices
  std::vector<float> scales;   // (R); NaN where the group holds a non-finite value
};

Int8Codebook int8_codebook(const LayerSpec& spec, const float* codebook, int64_t row_groups);

// "(2, 3, 4)"
std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace vq4dit
