// Checks, decoding and codebook quantization of one layer; nothing here is on the hot path.
#include "layer.h"

#include <algorithm>
#include <cmath>

namespace vq4dit {
namespace {

// Norm that the longest codeword of a row group gets in int16 units. Below 32767 by more than the
// rounding of its components can add (0.5 * sqrt(d) <= 32 for d <= 4096).
constexpr double kCodewordNorm = 32700.0;

std::string number(int64_t value) { return std::to_string(value); }

// The four raw indices of word `word` of output `row`; positions behind G read as zero.
struct WordReader {
  const LayerSpec& spec;
  const uint8_t* bytes;
  int64_t out_features;

  uint32_t raw(int64_t row, int64_t word) const {
    const int size = spec.word_bytes();
    const bool rows = spec.assignment_layout == AssignmentLayout::kRows;
    const int64_t start = rows ? row * spec.bytes_per_row() + word * size
                               : (word * out_features + row) * size;
    const int64_t left = rows ? spec.bytes_per_row() - word * size : size;
    uint32_t value = 0;
    for (int i = 0; i < std::min<int64_t>(size, left); ++i) {
      value |= static_cast<uint32_t>(bytes[start + i] ^ 0x80u) << (8 * i);  // stored b - 128
    }
    return value;
  }

  uint32_t index(int64_t row, int64_t position) const {
    const int bits = spec.index_bits();
    const uint32_t word = raw(row, position / kWordPositions);
    return (word >> (bits * (position % kWordPositions))) & ((1u << bits) - 1u);
  }
};

// Column within one period at each place: sub-vector t holds {2t, 2t + 1} + {0, 8, 16, 24}.
int64_t column_of_place(GroupOrder order, int64_t place) {
  if (order == GroupOrder::kContiguous) return place;
  const int64_t length = order == GroupOrder::kMma16 ? 4 : 8;
  const int64_t period = 4 * length;
  const int64_t base = place / period * period;
  const int64_t sub_vector = place % period / length;
  const int64_t element = place % length;
  return base + 2 * sub_vector + element % 2 + 8 * (element / 2);
}

}  // namespace

int64_t LayerSpec::bytes_per_row() const {
  const int64_t count = num_sub_vectors();
  switch (index_bits()) {
    case 4: return (count + 1) / 2;
    case 6: return (count + 3) / 4 * 3;
    default: return count;
  }
}

void LayerSpec::check() const {
  if (codebook_size < 1 || codebook_size > 256) {
    throw Error("codebook_size is " + number(codebook_size) + ", needed 1..256");
  }
  if (sub_vector_len < 1 || sub_vector_len > kMaxSubVectorLen) {
    throw Error("sub_vector_len is " + number(sub_vector_len) + ", needed 1.." +
                number(kMaxSubVectorLen));
  }
  if (in_features < 1 || in_features % sub_vector_len != 0) {
    throw Error("in_features is " + number(in_features) +
                ", needed a positive multiple of sub_vector_len " + number(sub_vector_len));
  }
  if (group_order == GroupOrder::kContiguous) return;
  const int64_t length = group_order == GroupOrder::kMma16 ? 4 : 8;
  if (sub_vector_len != length || in_features % (4 * length) != 0) {
    throw Error("group_order " + number(static_cast<int>(group_order)) + " needs sub_vector_len " +
                number(length) + " and in_features a multiple of " + number(4 * length) +
                "; found " + number(sub_vector_len) + " and " + number(in_features));
  }
}

int64_t LayerSpec::out_features_from(const std::vector<int64_t>& shape) const {
  const bool rows = assignment_layout == AssignmentLayout::kRows;
  if (rows && shape.size() == 2 && shape[0] > 0 && shape[1] == bytes_per_row()) return shape[0];
  if (!rows && shape.size() == 3 && shape[0] == num_words() && shape[1] > 0 &&
      shape[2] == word_bytes()) {
    return shape[1];
  }
  const std::string needed =
      rows ? "(O, " + number(bytes_per_row()) + ")"
           : "(" + number(num_words()) + ", O, " + number(word_bytes()) + ")";
  throw Error("assignments have shape " + shape_text(shape) + ", needed " + needed +
              " for in_features " + number(in_features) + ", codebook_size " +
              number(codebook_size) + ", sub_vector_len " + number(sub_vector_len) +
              ", assignment_layout " + number(static_cast<int>(assignment_layout)));
}

std::vector<int32_t> LayerSpec::place_of_column() const {
  std::vector<int32_t> places(kBlockPositions * sub_vector_len);
  for (size_t place = 0; place < places.size(); ++place) {
    places[column_of_place(group_order, place)] = static_cast<int32_t>(place);
  }
  return places;
}

void check_assignments(const LayerSpec& spec, const int8_t* assignments, int64_t out_features) {
  if (spec.codebook_size == int64_t{1} << spec.index_bits()) return;  // every index is a codeword
  const WordReader reader{spec, reinterpret_cast<const uint8_t*>(assignments), out_features};
  for (int64_t row = 0; row < out_features; ++row) {
    for (int64_t position = 0; position < spec.num_sub_vectors(); ++position) {
      const uint32_t index = reader.index(row, position);
      if (index >= spec.codebook_size) {
        throw Error("assignment at row " + number(row) + ", sub-vector " + number(position) +
                    " is " + number(index) + ", needed 0.." + number(spec.codebook_size - 1));
      }
    }
  }
}

void decode_rows(const LayerSpec& spec, const float* codebook, int64_t row_groups,
                 const int8_t* assignments, int64_t out_features, int64_t begin, int64_t end,
                 float* weight) {
  const WordReader reader{spec, reinterpret_cast<const uint8_t*>(assignments), out_features};
  const int64_t length = spec.sub_vector_len;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t group = row / (out_features / row_groups);
    const float* group_codebook = codebook + group * spec.codebook_size * length;
    for (int64_t position = 0; position < spec.num_sub_vectors(); ++position) {
      const float* codeword = group_codebook + reader.index(row, position) * length;
      for (int64_t t = 0; t < length; ++t) {
        const int64_t column = column_of_place(spec.group_order, position * length + t);
        weight[row * spec.in_features + column] = codeword[t];
      }
    }
  }
}

QuantizedCodebook quantize_codebook(const LayerSpec& spec, const float* codebook,
                                    int64_t row_groups) {
  const int64_t length = spec.sub_vector_len;
  const int64_t num_pairs = spec.num_pairs();
  QuantizedCodebook result;
  // One codeword more, which kernels that take two at a time may read.
  result.pairs.assign((row_groups * spec.codebook_size + 1) * num_pairs, 0);
  for (int64_t group = 0; group < row_groups; ++group) {
    const float* values = codebook + group * spec.codebook_size * length;
    double longest = 0;
    bool finite = true;
    for (int64_t c = 0; c < spec.codebook_size; ++c) {
      double square = 0;
      for (int64_t t = 0; t < length; ++t) {
        square += static_cast<double>(values[c * length + t]) * values[c * length + t];
      }
      finite = finite && std::isfinite(square);
      longest = std::max(longest, square);
    }
    const double scale = std::sqrt(longest) / kCodewordNorm;
    result.scales.push_back(finite ? static_cast<float>(scale) : std::nanf(""));
    if (!finite || scale == 0) continue;  // int16 zeros; the scale says the rest
    for (int64_t c = 0; c < spec.codebook_size; ++c) {
      int32_t* pairs = &result.pairs[(group * spec.codebook_size + c) * num_pairs];
      for (int64_t t = 0; t < length; ++t) {
        const auto value = static_cast<uint16_t>(
            static_cast<int16_t>(std::lrint(values[c * length + t] / scale)));
        pairs[t / 2] |= static_cast<int32_t>(static_cast<uint32_t>(value) << (16 * (t % 2)));
      }
    }
  }
  return result;
}

Int8Codebook int8_codebook(const LayerSpec& spec, const float* codebook, int64_t row_groups) {
  const int64_t slots = int64_t{1} << spec.index_bits();
  const int64_t size = spec.codebook_size * spec.sub_vector_len;
  // Bytes are stored minus 128, which flips the top bit of an 8-bit index.
  const int64_t flip = spec.index_bits() == 8 ? 0x80 : 0;
  Int8Codebook result;
  result.bytes.assign(row_groups * slots * spec.sub_vector_len, 128);
  for (int64_t group = 0; group < row_groups; ++group) {
    const float* values = codebook + group * size;
    float most = 0.0f, zero = 0.0f;
    for (int64_t i = 0; i < size; ++i) {
      most = std::max(most, std::fabs(values[i]));
      zero += values[i] * 0.0f;
    }
    result.scales.push_back(zero == 0.0f ? most / 127.0f : std::nanf(""));
    if (zero != 0.0f || most < kSmallestRow) continue;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t slot = (i / spec.sub_vector_len) ^ flip;
      const int64_t at = (group * slots + slot) * spec.sub_vector_len + i % spec.sub_vector_len;
      result.bytes[at] = static_cast<uint8_t>(128 + std::lrint(values[i] * (127.0f / most)));
    }
  }
  return result;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace vq4dit
