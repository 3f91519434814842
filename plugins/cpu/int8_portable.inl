// The inner loops of the int8 mode in plain C++; included in front of int8_panel.inl.

// Quantizes one row into sub-vector order, zeros behind the last column; returns the sum.
int32_t place_row(const Int8Rows& rows, const float* x, float factor, bool usable,
                  int8_t* quantized) {
  __builtin_memset(quantized, 0, rows.stride);
  if (!usable) return 0;
  int32_t sum = 0;
  const int64_t period = kBlockPositions * rows.sub_vector_len;
  for (int64_t first = 0; first < rows.in_features; first += period) {
    const int64_t left = rows.in_features - first;
    const int64_t present = left < period ? left : period;
    for (int64_t column = 0; column < present; ++column) {
      const auto value = static_cast<int32_t>(__builtin_lrintf(x[first + column] * factor));
      quantized[first + rows.place_of_column[column]] = static_cast<int8_t>(value);
      sum += value;
    }
  }
  return sum;
}

// No faster way than one by one here.
inline bool gather_codewords(const uint8_t*, const uint8_t*, uint8_t*) { return false; }

// sums[row][output] = <panel column, row of x> over all words of four bytes.
template <int Rows>
void dot_rows(const int8_t* x, int64_t stride, const uint8_t* panel, int64_t words, int32_t* sums) {
  __builtin_memset(sums, 0, Rows * kPanelOutputs * sizeof(int32_t));
  for (int64_t word = 0; word < words; ++word, panel += 4 * kPanelOutputs) {
    for (int r = 0; r < Rows; ++r) {
      const int8_t* four = x + r * stride + 4 * word;
      const int32_t a = four[0], b = four[1], c = four[2], d = four[3];
      int32_t* target = sums + r * kPanelOutputs;
      for (int o = 0; o < kPanelOutputs; ++o) {
        const uint8_t* w = panel + 4 * o;
        target[o] += a * w[0] + b * w[1] + c * w[2] + d * w[3];
      }
    }
  }
}
