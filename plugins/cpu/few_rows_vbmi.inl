// Fast mode for up to 4 rows with AVX-512 VBMI: the lanes are outputs, and the tables of one row
// and position, 256 entries cut into low and high bytes, are looked up 64 at a time by byte
// permutations. Same entries, same sums of eight, same scales: the bits of fast_block.

constexpr int kPermutedRows = 4;
constexpr int kPermutedLanes = 8;        // of load_columns and quantize_columns
constexpr int kPermutedPairs = 4;       // longest sub-vector: 8
constexpr int64_t kTileBytes = kOutputTile * kWordPositions;
constexpr int64_t kPermutedTable = 512;  // low bytes, then high bytes

// The codebook with lanes over codewords: (num_pairs, 256), zero behind the last codeword.
struct CodewordLanes {
  alignas(64) int32_t pairs[kPermutedPairs][256];

  explicit CodewordLanes(const BlockTask& task) {
    for (int64_t k = 0; k < task.num_pairs; ++k) {
      for (int64_t c = 0; c < 256; ++c) {
        pairs[k][c] =
            c < task.codebook_size ? task.codebook_pairs[c * task.num_pairs + k] : 0;
      }
    }
  }
};

// The 256 entries of one row and position, cut into bytes, in slot order. x: the row's pairs of
// columns, `stride` apart.
inline void build_permuted_table(const CodewordLanes& codewords, const int32_t* x, int64_t stride,
                                 int64_t num_pairs, uint8_t* table) {
  for (int c = 0; c < 256; c += 16) {
    __m512i sum = _mm512_set1_epi32(0x8000);
    for (int64_t k = 0; k < num_pairs; ++k) {
      sum = _mm512_dpwssd_epi32(sum, _mm512_load_si512(codewords.pairs[k] + c),
                                _mm512_set1_epi32(x[k * stride]));
    }
    auto* low = reinterpret_cast<__m128i*>(table + (c ^ 0x80));
    _mm_storeu_si128(low, _mm512_cvtepi32_epi8(_mm512_srli_epi32(sum, 16)));
    _mm_storeu_si128(low + 16, _mm512_cvtepi32_epi8(_mm512_srli_epi32(sum, 24)));
  }
}

void build_permuted_tables(const BlockTask& task, const CodewordLanes& codewords, int64_t block) {
  auto* table = static_cast<uint8_t*>(task.tables);
  for (int64_t row = 0; row < task.num_rows; ++row) {
    for (int64_t u = 0; u < kBlockPositions; ++u, table += kPermutedTable) {
      if (block * kBlockPositions + u < task.num_sub_vectors) {
        const int32_t* x = task.pairs + u * task.num_pairs * kPermutedLanes + row;
        build_permuted_table(codewords, x, kPermutedLanes, task.num_pairs, table);
      } else {
        __builtin_memset(table, 0, kPermutedTable);
      }
    }
  }
}

// Words of 64 outputs, four bytes each, into 64 bytes for each of the four positions.
inline void split_words(const uint8_t* words, uint8_t* planes) {
  // Within each vector of 16 words: 16 bytes of position 0, of position 1, ...
  const __m512i order = _mm512_set_epi8(
      63, 59, 55, 51, 47, 43, 39, 35, 31, 27, 23, 19, 15, 11, 7, 3, 62, 58, 54, 50, 46, 42, 38, 34,
      30, 26, 22, 18, 14, 10, 6, 2, 61, 57, 53, 49, 45, 41, 37, 33, 29, 25, 21, 17, 13, 9, 5, 1, 60,
      56, 52, 48, 44, 40, 36, 32, 28, 24, 20, 16, 12, 8, 4, 0);
  __m512i v[4];
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(words + 64 * i));
  }
  const __m512i low01 = _mm512_shuffle_i64x2(v[0], v[1], 0x44);
  const __m512i low23 = _mm512_shuffle_i64x2(v[2], v[3], 0x44);
  const __m512i high01 = _mm512_shuffle_i64x2(v[0], v[1], 0xEE);
  const __m512i high23 = _mm512_shuffle_i64x2(v[2], v[3], 0xEE);
  _mm512_store_si512(planes, _mm512_shuffle_i64x2(low01, low23, 0x88));
  _mm512_store_si512(planes + kOutputTile, _mm512_shuffle_i64x2(low01, low23, 0xDD));
  _mm512_store_si512(planes + 2 * kOutputTile, _mm512_shuffle_i64x2(high01, high23, 0x88));
  _mm512_store_si512(planes + 3 * kOutputTile, _mm512_shuffle_i64x2(high01, high23, 0xDD));
}

// planes[position][output] of one tile; `present` outputs are in the tensor.
void split_tile(const WordStreams<2>& streams, int64_t first, int64_t present, uint8_t* planes) {
  for (int w = 0; w < 2; ++w) {
    const uint8_t* words = streams.at[w] + first * kWordPositions;
    uint8_t padded[kTileBytes] = {};
    if (present < kOutputTile) {
      __builtin_memcpy(padded, words, present * kWordPositions);
      words = padded;
    }
    uint8_t* target = planes + w * kWordPositions * kOutputTile;
    for (int64_t o = 0; o < kOutputTile; o += 64) {
      split_words(words + o * kWordPositions, target + o);
    }
  }
}

// Entries of 64 indices out of 256 bytes: the indices' top bits choose between the halves.
inline __m512i permuted_bytes(const __m512i (&table)[4], __m512i indices, __mmask64 upper) {
  return _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(table[0], indices, table[1]),
                                _mm512_permutex2var_epi8(table[2], indices, table[3]));
}

// sums[0..31] += whole * scale
inline void accumulate32(__m512i whole, __m512 scale, float* sums) {
  accumulate16(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(whole)), scale, sums);
  accumulate16(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(whole, 1)), scale, sums + 16);
}

// Adds one block of one row to the sums of one tile.
inline void look_up_permuted(const uint8_t* tables, const uint8_t* planes, float scale,
                             float* sums) {
  constexpr int kParts = kOutputTile / 64;
  __m512i first[kParts], second[kParts];  // outputs 0-7 and 8-15 of every 16
  for (int part = 0; part < kParts; ++part) first[part] = second[part] = _mm512_setzero_si512();
  for (int u = 0; u < kBlockPositions; ++u) {
    __m512i low[4], high[4];
    for (int i = 0; i < 4; ++i) {
      low[i] = _mm512_load_si512(tables + u * kPermutedTable + 64 * i);
      high[i] = _mm512_load_si512(tables + u * kPermutedTable + 256 + 64 * i);
      // Keeps them in registers: the compiler would load them again for every part.
      __asm__("" : "+v"(low[i]), "+v"(high[i]));
    }
    for (int part = 0; part < kParts; ++part) {
      const __m512i indices = _mm512_load_si512(planes + u * kOutputTile + 64 * part);
      const __mmask64 upper = _mm512_movepi8_mask(indices);
      const __m512i low_bytes = permuted_bytes(low, indices, upper);
      const __m512i high_bytes = permuted_bytes(high, indices, upper);
      first[part] = _mm512_add_epi16(first[part], _mm512_unpacklo_epi8(low_bytes, high_bytes));
      second[part] = _mm512_add_epi16(second[part], _mm512_unpackhi_epi8(low_bytes, high_bytes));
    }
  }
  const __m512i lower_order = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
  const __m512i upper_order = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
  const __m512 scales = _mm512_set1_ps(scale);
  for (int part = 0; part < kParts; ++part) {
    float* target = sums + 64 * part;
    accumulate32(_mm512_permutex2var_epi64(first[part], lower_order, second[part]), scales, target);
    accumulate32(_mm512_permutex2var_epi64(first[part], upper_order, second[part]), scales,
                 target + 32);
  }
}

// Turns sums[row][output] into rows of y.
void finish_rows(const BlockTask& task, int64_t stride) {
  for (int64_t row = 0; row < task.num_rows; ++row) {
    for (int64_t o = 0; o < task.count; o += 8) {
      write_outputs(task, task.row + row, o, load(task.sums + row * stride + o));
    }
  }
}

void few_rows(const BlockTask& task) {
  if (task.index_bits != 8 || task.num_pairs > kPermutedPairs) return fast_block<8, 2>(task);
  const RowPointers<kPermutedLanes> rows(task);
  const CodewordLanes codewords(task);
  const int64_t stride = (task.count + kOutputTile - 1) / kOutputTile * kOutputTile;
  for (int64_t row = 0; row < task.num_rows; ++row) {
    __builtin_memcpy(task.sums + row * stride, task.bias + task.begin, task.count * sizeof(float));
  }
  float scales[kPermutedLanes];
  for (int64_t word = 0; word < task.num_words; word += 2) {
    load_columns<kPermutedLanes>(task, rows, word / 2);
    quantize_columns<kPermutedLanes>(task, scales);
    build_permuted_tables(task, codewords, word / 2);
    const WordStreams<2> streams = streams_of<2>(task, word);
    for (int64_t o = 0; o < task.count; o += kOutputTile) {
      alignas(64) uint8_t planes[kBlockPositions * kOutputTile];
      split_tile(streams, o, task.count - o, planes);
      for (int64_t row = 0; row < task.num_rows; ++row) {
        const auto* tables = static_cast<const uint8_t*>(task.tables) +
                             row * kBlockPositions * kPermutedTable;
        look_up_permuted(tables, planes, scales[row], task.sums + row * stride + o);
      }
    }
  }
  finish_rows(task, stride);
}
