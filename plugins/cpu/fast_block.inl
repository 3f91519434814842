// Fast mode: int16 tables. README.md derives the scales and the error.

// Quantizes the block's columns to int16 pairs with one scale per row, and gives in `scales` the
// factor that turns a sum of table entries back into a float. README.md, "Error bound": the sum of
// the sub-vectors' norms is mapped to 65000, so that eight entries cannot overflow int16.
template <int Rows>
void quantize_columns(const BlockTask& task, float* scales) {
  const int64_t length = task.sub_vector_len;
  for (int half = 0; half < Rows; half += 8) {
    Float8 norms = broadcast(0.0f), largest = broadcast(0.0f);
    for (int position = 0; position < kBlockPositions; ++position) {
      Float8 square = broadcast(0.0f);
      for (int64_t t = 0; t < length; ++t) {
        const Float8 value = load(task.columns + (position * length + t) * Rows + half);
        square = multiply_add(value, value, square);
        largest = maximum(largest, absolute(value));
      }
      norms = add(norms, square_root(square));
    }
    // Below 1e-15 a block counts as zero: its squares would leave float's range.
    const Float8 bounded = maximum(norms, broadcast(1e-15f));
    const Float8 to_int = minimum(divide(broadcast(65000.0f), bounded),
                                  divide(broadcast(32760.0f), largest));
    const Float8 from_int = divide(broadcast(65536.0f * task.codebook_scale), to_int);
    // 0 * norms is NaN where the row holds a NaN or an infinity: the result must not hide it.
    store(scales + half, multiply_add(norms, broadcast(0.0f), from_int));
    for (int position = 0; position < kBlockPositions; ++position) {
      for (int64_t pair = 0; pair < task.num_pairs; ++pair) {
        const float* low = task.columns + (position * length + 2 * pair) * Rows + half;
        const bool odd_end = 2 * pair + 1 == length;
        const Float8 high = odd_end ? broadcast(0.0f) : load(low + Rows);
        store_pairs(task.pairs + (position * task.num_pairs + pair) * Rows + half,
                    multiply(load(low), to_int), multiply(high, to_int));
      }
    }
  }
}

template <int Rows, int Pairs>
void build_table(const BlockTask& task, const int32_t* pairs, int16_t* table) {
  const int64_t num_pairs = Pairs ? Pairs : task.num_pairs;
  const int64_t flip = slot_flip(task.index_bits);
  const PairColumns<Rows, Pairs> columns(pairs);
  // May compute one entry more than there are codewords; no index leads there.
  for (int64_t c = 0; c < task.codebook_size; c += columns.kCodewords) {
    const int32_t* codeword = task.codebook_pairs + c * num_pairs;
    store(table + (c ^ flip) * Rows, columns.product(codeword, num_pairs));
  }
}

template <int Rows>
void build_fast_table(const BlockTask& task, const int32_t* pairs, int16_t* table) {
  switch (task.num_pairs) {
    case 1: return build_table<Rows, 1>(task, pairs, table);
    case 2: return build_table<Rows, 2>(task, pairs, table);
    case 4: return build_table<Rows, 4>(task, pairs, table);
    default: return build_table<Rows, 0>(task, pairs, table);
  }
}

template <int Rows, int Bits>
inline Int16s<Rows> sum_of_entries(const int16_t* tables, uint32_t word) {
  const auto first = add(load<Rows>(entry_at<Rows, Bits, 0>(tables, word)),
                         load<Rows>(entry_at<Rows, Bits, 1>(tables, word)));
  const auto second = add(load<Rows>(entry_at<Rows, Bits, 2>(tables, word)),
                          load<Rows>(entry_at<Rows, Bits, 3>(tables, word)));
  return add(first, second);
}

// Where the sum of a word's four entries goes, one word per pass: kept for the block's second word,
// or added to what the first word left (if any) and on, as float, to the sums.
enum class Step { kKeep, kAddToKept, kAlone };

template <int Rows, int Bits, Step step>
void look_up_word(const BlockTask& task, const WordStreams<1> words,
                  const RowScales<Rows> scales) {
  const auto* tables = static_cast<const int16_t*>(task.tables);
  int16_t* partial = task.partial;
  float* sums = task.sums;
  for_each_output<Bits, 1>(words, task.count, [=](int64_t o, PassWords<1> word) {
    Int16s<Rows> sum = sum_of_entries<Rows, Bits>(tables, word.at[0]);
    if (step == Step::kKeep) return store(partial + o * Rows, sum);
    if (step == Step::kAddToKept) sum = add(sum, load<Rows>(partial + o * Rows));
    scales.accumulate(sum, sums + o * Rows);
  });
}

template <int Rows, int Bits>
void look_up(const BlockTask& task, int64_t word, const float* scales, const WordStreams<1> words) {
  const RowScales<Rows> row_scales(scales);
  if (word % 2 == 1) return look_up_word<Rows, Bits, Step::kAddToKept>(task, words, row_scales);
  if (word + 1 < task.num_words) {
    return look_up_word<Rows, Bits, Step::kKeep>(task, words, row_scales);
  }
  look_up_word<Rows, Bits, Step::kAlone>(task, words, row_scales);
}

// Two words per pass: the whole block, with nothing to keep in between.
template <int Rows, int Bits>
void look_up(const BlockTask& task, int64_t, const float* scales, const WordStreams<2> words) {
  constexpr int64_t kWordTables = int64_t{kWordPositions} * (1 << Bits) * Rows;
  const RowScales<Rows> row_scales(scales);
  const auto* tables = static_cast<const int16_t*>(task.tables);
  float* sums = task.sums;
  for_each_output<Bits, 2>(words, task.count, [=](int64_t o, PassWords<2> word) {
    row_scales.accumulate(add(sum_of_entries<Rows, Bits>(tables, word.at[0]),
                              sum_of_entries<Rows, Bits>(tables + kWordTables, word.at[1])),
                          sums + o * Rows);
  });
}

template <int Rows, int Words, int Bits>
void fast_block_of(const BlockTask& task) {
  constexpr int64_t kTableSize = int64_t{1 << Bits} * Rows;
  const RowPointers<Rows> rows(task);
  auto* tables = static_cast<int16_t*>(task.tables);
  float scales[Rows];
  start_with_bias<Rows>(task);
  for (int64_t word = 0; word < task.num_words; word += Words) {
    const int64_t in_block = word % 2 * kWordPositions;
    if (in_block == 0) {
      load_columns<Rows>(task, rows, word / 2);
      quantize_columns<Rows>(task, scales);
    }
    for (int u = 0; u < Words * kWordPositions; ++u) {
      int16_t* table = tables + u * kTableSize;
      if (word * kWordPositions + u < task.num_sub_vectors) {
        build_fast_table<Rows>(task, task.pairs + (in_block + u) * task.num_pairs * Rows, table);
      } else {  // padding: whatever index a file holds there counts as zero
        __builtin_memset(table, 0, kTableSize * sizeof(int16_t));
      }
    }
    look_up<Rows, Bits>(task, word, scales, streams_of<Words>(task, word));
  }
  finish<Rows>(task);
}

template <int Rows, int Words>
void fast_block(const BlockTask& task) {
  switch (task.index_bits) {
    case 4: return fast_block_of<Rows, Words, 4>(task);
    case 6: return fast_block_of<Rows, Words, 6>(task);
    default: return fast_block_of<Rows, Words, 8>(task);
  }
}
