// Exact mode: float tables, summed word by word in one fixed order.

template <int Rows, int Length>
void build_exact_table_of(const BlockTask& task, const float* columns, float* table) {
  constexpr Lanes<Rows> kLanes;
  const int64_t length = Length ? Length : task.sub_vector_len;
  const int64_t flip = slot_flip(task.index_bits);
  // Held in registers: the stores into the table could, for all the compiler knows, change them.
  decltype(load(columns, kLanes)) held[Length ? Length : 1];
  for (int64_t t = 0; t < Length; ++t) held[t] = load(columns + t * Rows, kLanes);
  for (int64_t c = 0; c < task.codebook_size; ++c) {
    const float* codeword = task.codebook + c * length;
    const auto column = [&](int64_t t) { return Length ? held[t] : load(columns + t * Rows, kLanes); };
    auto product = multiply(broadcast(codeword[0], kLanes), column(0));
    for (int64_t t = 1; t < length; ++t) {
      product = multiply_add(broadcast(codeword[t], kLanes), column(t), product);
    }
    store(table + (c ^ flip) * Rows, product);
  }
}

template <int Rows>
void build_exact_table(const BlockTask& task, const float* columns, float* table) {
  switch (task.sub_vector_len) {
    case 1: return build_exact_table_of<Rows, 1>(task, columns, table);
    case 2: return build_exact_table_of<Rows, 2>(task, columns, table);
    case 4: return build_exact_table_of<Rows, 4>(task, columns, table);
    case 8: return build_exact_table_of<Rows, 8>(task, columns, table);
    default: return build_exact_table_of<Rows, 0>(task, columns, table);
  }
}

// (0 + 1) + (2 + 3)
template <int Rows, int Bits>
inline auto sum_of_products(const float* tables, uint32_t word) {
  constexpr Lanes<Rows> kLanes;
  const auto first = add(load(entry_at<Rows, Bits, 0>(tables, word), kLanes),
                         load(entry_at<Rows, Bits, 1>(tables, word), kLanes));
  const auto second = add(load(entry_at<Rows, Bits, 2>(tables, word), kLanes),
                          load(entry_at<Rows, Bits, 3>(tables, word), kLanes));
  return add(first, second);
}

template <int Rows, int Words, int Bits>
void look_up_exact(const BlockTask& task, const WordStreams<Words> words) {
  constexpr int64_t kWordTables = int64_t{kWordPositions} * (1 << Bits) * Rows;
  const auto* tables = static_cast<const float*>(task.tables);
  float* sums = task.sums;
  for_each_output<Bits, Words>(words, task.count, [=](int64_t o, PassWords<Words> word) {
    auto sum = load(sums + o * Rows, Lanes<Rows>());
    for (int w = 0; w < Words; ++w) {
      sum = add(sum, sum_of_products<Rows, Bits>(tables + w * kWordTables, word.at[w]));
    }
    store(sums + o * Rows, sum);
  });
}

template <int Rows, int Words, int Bits>
void exact_block_of(const BlockTask& task) {
  constexpr int64_t kTableSize = int64_t{1 << Bits} * Rows;
  const RowPointers<Rows> rows(task);
  auto* tables = static_cast<float*>(task.tables);
  start_with_bias<Rows>(task);
  for (int64_t word = 0; word < task.num_words; word += Words) {
    const int64_t in_block = word % 2 * kWordPositions;
    if (in_block == 0) load_columns<Rows>(task, rows, word / 2);
    for (int u = 0; u < Words * kWordPositions; ++u) {
      float* table = tables + u * kTableSize;
      if (word * kWordPositions + u < task.num_sub_vectors) {
        const int64_t column = (in_block + u) * task.sub_vector_len;
        build_exact_table<Rows>(task, task.columns + column * Rows, table);
      } else {
        __builtin_memset(table, 0, kTableSize * sizeof(float));
      }
    }
    look_up_exact<Rows, Words, Bits>(task, streams_of<Words>(task, word));
  }
  finish<Rows>(task);
}

template <int Rows, int Words>
void exact_block(const BlockTask& task) {
  switch (task.index_bits) {
    case 4: return exact_block_of<Rows, Words, 4>(task);
    case 6: return exact_block_of<Rows, Words, 6>(task);
    default: return exact_block_of<Rows, Words, 8>(task);
  }
}
