// The product-table algorithm for one block of rows, written once over the vector operations that
// each kernels_*.cc defines in front of including this file (README.md draws it).
//
// Expected in scope: Float8, Int16s, PairColumns, RowScales (and load, broadcast for more Lanes). Everything stays in the
// including file's unnamed namespace, so that code made for one instruction set is never linked
// into another.
//
// Contract: a lane (row of x) is computed from that row alone, in an order that depends on the
// layer only. Rows that are missing in the last block repeat row 0 and are not stored.

inline Float8 load(const float* p, Lanes<8>) { return load(p); }
inline Float8 broadcast(float a, Lanes<8>) { return broadcast(a); }

// The row of x in each lane.
template <int Rows>
struct RowPointers {
  const float* at[Rows];

  explicit RowPointers(const BlockTask& task) {
    for (int lane = 0; lane < Rows; ++lane) {
      at[lane] = task.x + (lane < task.num_rows ? lane : 0) * task.in_features;
    }
  }
};

// columns[place][lane] = x[lane][column] for the 8 * d columns of one block, in sub-vector order;
// zero behind the last column.
template <int Rows>
void load_columns(const BlockTask& task, const RowPointers<Rows>& rows, int64_t block) {
  const int64_t width = kBlockPositions * task.sub_vector_len;
  const int64_t first = block * width;
  const int64_t present = task.in_features - first < width ? task.in_features - first : width;
  const int64_t whole = present / 8 * 8;
  for (int64_t column = 0; column < whole; column += 8) {
    for (int half = 0; half < Rows; half += 8) {
      Float8 tile[8];
      for (int i = 0; i < 8; ++i) tile[i] = load(rows.at[half + i] + first + column);
      transpose(tile);
      for (int i = 0; i < 8; ++i) {
        store(task.columns + task.place_of_column[column + i] * Rows + half, tile[i]);
      }
    }
  }
  for (int64_t column = whole; column < width; ++column) {
    float* target = task.columns + task.place_of_column[column] * Rows;
    for (int lane = 0; lane < Rows; ++lane) {
      target[lane] = column < present ? rows.at[lane][first + column] : 0.0f;
    }
  }
}

// Slot of a table where codeword c's product stands. Bytes are stored minus 128, which flips the
// top bit of an 8-bit index: flipping the slot instead saves the correction in the inner loop.
// Narrower indices straddle bytes and are corrected word by word.
inline int64_t slot_flip(int index_bits) { return index_bits == 8 ? 0x80 : 0; }

template <int Bits>
inline uint32_t load_word(const uint8_t* bytes) {
  if (Bits == 4) {
    uint16_t word;
    __builtin_memcpy(&word, bytes, 2);
    return word ^ 0x8080u;
  }
  uint32_t word;
  __builtin_memcpy(&word, bytes, 4);
  return Bits == 8 ? word : word ^ 0x808080u;
}

// The last 6-bit word of a tensor has no fourth byte to read.
template <int Bits>
inline uint32_t load_last_word(const uint8_t* bytes) {
  if (Bits != 6) return load_word<Bits>(bytes);
  return (bytes[0] | static_cast<uint32_t>(bytes[1]) << 8 | static_cast<uint32_t>(bytes[2]) << 16) ^
         0x808080u;
}

// The entry of table `Position` that the word's index chooses: `Lanes` numbers. Rotation and mask
// give the offset in bytes in two instructions, and the table's start is a constant.
template <int Lanes, int Bits, int Position, typename Number>
inline const Number* entry_at(const Number* tables, uint32_t word) {
  constexpr int kEntryBytes = Lanes * static_cast<int>(sizeof(Number));
  constexpr int kEntryShift = kEntryBytes == 16 ? 4 : kEntryBytes == 32 ? 5 : 6;
  static_assert(kEntryBytes == 1 << kEntryShift, "entries of 16, 32 or 64 bytes");
  constexpr int kShift = Bits * Position - kEntryShift;
  constexpr uint32_t kMask = ((1u << Bits) - 1u) << kEntryShift;
  constexpr size_t kTableBytes = size_t{1} << (Bits + kEntryShift);
  constexpr int kRotation = (kShift + 32) % 32;  // one instruction with BMI2; the mask cuts the rest
  const uint32_t offset = (word >> kRotation | word << (32 - kRotation) % 32) & kMask;
  return reinterpret_cast<const Number*>(reinterpret_cast<const char*>(tables) +
                                         Position * kTableBytes + offset);
}

// The packed words of the word positions of one pass, for the task's outputs.
template <int Words>
struct WordStreams {
  const uint8_t* at[Words];
};

// One word of each stream.
template <int Words>
struct PassWords {
  uint32_t at[Words];
};

// Calls one(output, words) for all outputs.
template <int Bits, int Words, typename One>
inline void for_each_output(const WordStreams<Words>& streams, int64_t count, One one) {
  constexpr int kSize = kWordPositions * Bits / 8;
  PassWords<Words> words;
  for (int64_t o = 0; o + 1 < count; ++o) {
    for (int w = 0; w < Words; ++w) words.at[w] = load_word<Bits>(streams.at[w] + o * kSize);
    one(o, words);
  }
  for (int w = 0; w < Words; ++w) {
    words.at[w] = load_last_word<Bits>(streams.at[w] + (count - 1) * kSize);
  }
  one(count - 1, words);
}

// The packed words of one word position for the task's outputs, beside each other; `place` is the
// word's place in the pass.
const uint8_t* words_of(const BlockTask& task, int64_t word, int place) {
  const int64_t size = kWordPositions * task.index_bits / 8;
  if (task.four_major) return task.assignments + (word * task.out_features + task.begin) * size;
  const int64_t left = task.bytes_per_row - word * size;
  const int64_t present = left < size ? left : size;
  uint8_t* words = task.words + place * task.words_bytes;
  for (int64_t o = 0; o < task.count; ++o) {
    const uint8_t* source = task.assignments + (task.begin + o) * task.bytes_per_row + word * size;
    uint8_t* target = words + o * size;
    for (int64_t i = 0; i < size; ++i) target[i] = i < present ? source[i] : 0x80;
  }
  return words;
}

// Words behind the last one repeat it: their tables are zero.
template <int Words>
WordStreams<Words> streams_of(const BlockTask& task, int64_t word) {
  WordStreams<Words> streams;
  streams.at[0] = words_of(task, word, 0);
  for (int w = 1; w < Words; ++w) {
    streams.at[w] = word + w < task.num_words ? words_of(task, word + w, w) : streams.at[0];
  }
  return streams;
}

inline int64_t padded_count(const BlockTask& task) { return (task.count + 7) / 8 * 8; }

template <int Rows>
void start_with_bias(const BlockTask& task) {
  for (int64_t o = 0; o < padded_count(task); ++o) {
    const Float8 value = broadcast(o < task.count ? task.bias[task.begin + o] : 0.0f);
    for (int half = 0; half < Rows; half += 8) store(task.sums + o * Rows + half, value);
  }
}

#include "epilogue.inl"
#include "exact_block.inl"
#include "fast_block.inl"
