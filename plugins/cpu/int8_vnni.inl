// The inner loops of the int8 mode with AVX-512 VNNI; included in front of int8_panel.inl.

// Quantizes one row into sub-vector order, zeros behind the last column; returns the sum.
int32_t place_row(const Int8Rows& rows, const float* x, float factor, bool usable,
                  int8_t* quantized) {
  __builtin_memset(quantized, 0, rows.stride);
  if (!usable) return 0;
  const __m512 factors = _mm512_set1_ps(factor);
  const int64_t period = kBlockPositions * rows.sub_vector_len;
  const bool is_mma16 = rows.sub_vector_len == 4 && rows.place_of_column[2] == 4;
  const __m128i order = _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
  __m512i sum = _mm512_setzero_si512();
  int64_t column = 0;
  for (; column + 16 <= rows.in_features; column += 16) {
    const __m512i whole =
        _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + column), factors));
    sum = _mm512_add_epi32(sum, whole);
    const __m128i bytes = _mm512_cvtepi32_epi8(whole);
    if (is_mma16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(quantized + column),
                       _mm_shuffle_epi8(bytes, order));
      continue;
    }
    alignas(16) int8_t sixteen[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(sixteen), bytes);
    for (int i = 0; i < 16; ++i) {
      const int64_t at = column + i;
      quantized[at / period * period + rows.place_of_column[at % period]] = sixteen[i];
    }
  }
  int32_t total = _mm512_reduce_add_epi32(sum);
  for (; column < rows.in_features; ++column) {
    const auto value = static_cast<int32_t>(__builtin_lrintf(x[column] * factor));
    quantized[column / period * period + rows.place_of_column[column % period]] =
        static_cast<int8_t>(value);
    total += value;
  }
  return total;
}

// Codewords of 64 outputs and four positions, looked up 16 at a time.
inline bool gather_codewords(const uint8_t* words, const uint8_t* codebook, uint8_t* decoded) {
  const __m512i mask = _mm512_set1_epi32(0xff);
  for (int part = 0; part < 4; ++part) {
    __m512i word = _mm512_loadu_si512(words + 64 * part);
    for (int u = 0; u < kWordPositions; ++u) {
      const __m512i codewords =
          _mm512_i32gather_epi32(_mm512_and_si512(word, mask), codebook, 4);
      _mm512_storeu_si512(decoded + (u * kPanelOutputs + 16 * part) * 4, codewords);
      word = _mm512_srli_epi32(word, 8);
    }
  }
  return true;
}

// 64 sums of one row.
struct PanelSums {
  __m512i part[4];

  // The instruction itself: from the intrinsic, GCC 12 copies every sum to and fro.
  void add(const __m512i (&codewords)[4], const int8_t* four) {
    int32_t bytes;
    __builtin_memcpy(&bytes, four, 4);
    const __m512i x = _mm512_set1_epi32(bytes);
    __asm__("vpdpbusd %1, %2, %0" : "+v"(part[0]) : "v"(x), "v"(codewords[0]));
    __asm__("vpdpbusd %1, %2, %0" : "+v"(part[1]) : "v"(x), "v"(codewords[1]));
    __asm__("vpdpbusd %1, %2, %0" : "+v"(part[2]) : "v"(x), "v"(codewords[2]));
    __asm__("vpdpbusd %1, %2, %0" : "+v"(part[3]) : "v"(x), "v"(codewords[3]));
  }

  void store(int32_t* sums) const {
    for (int i = 0; i < 4; ++i) _mm512_storeu_si512(sums + 16 * i, part[i]);
  }
};

// Row numbers as constants of the program: only so are the sums kept in registers.
template <int... Row>
void dot_rows(const int8_t* x, int64_t stride, const uint8_t* panel, int64_t words, int32_t* sums,
              std::integer_sequence<int, Row...>) {
  PanelSums total[sizeof...(Row)] = {};
  for (int64_t word = 0; word < words; ++word, panel += 4 * kPanelOutputs) {
    const __m512i codewords[4] = {
        _mm512_loadu_si512(panel), _mm512_loadu_si512(panel + 64),
        _mm512_loadu_si512(panel + 128), _mm512_loadu_si512(panel + 192)};
    (total[Row].add(codewords, x + Row * stride + 4 * word), ...);
  }
  (total[Row].store(sums + Row * kPanelOutputs), ...);
}

// sums[row][output] = <panel column, row of x> over all words of four bytes.
template <int Rows>
void dot_rows(const int8_t* x, int64_t stride, const uint8_t* panel, int64_t words, int32_t* sums) {
  dot_rows(x, stride, panel, words, sums, std::make_integer_sequence<int, Rows>());
}
