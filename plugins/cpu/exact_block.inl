// Exact mode: float tables of 8 rows, summed word by word in one fixed order.

template <int Length>
void build_exact_table_of(const BlockTask& task, const float* columns, float* table) {
  const int64_t length = Length ? Length : task.sub_vector_len;
  const int64_t flip = slot_flip(task.index_bits);
  // Held in registers: the stores into the table could, for all the compiler knows, change them.
  Float8 held[Length ? Length : 1];
  for (int64_t t = 0; t < Length; ++t) held[t] = load(columns + t * kExactRows);
  for (int64_t c = 0; c < task.codebook_size; ++c) {
    const float* codeword = task.codebook + c * length;
    const auto column = [&](int64_t t) {
      return Length ? held[t] : load(columns + t * kExactRows);
    };
    Float8 product = multiply(broadcast(codeword[0]), column(0));
    for (int64_t t = 1; t < length; ++t) {
      product = multiply_add(broadcast(codeword[t]), column(t), product);
    }
    store(table + (c ^ flip) * kExactRows, product);
  }
}

void build_exact_table(const BlockTask& task, const float* columns, float* table) {
  switch (task.sub_vector_len) {
    case 1: return build_exact_table_of<1>(task, columns, table);
    case 2: return build_exact_table_of<2>(task, columns, table);
    case 4: return build_exact_table_of<4>(task, columns, table);
    case 8: return build_exact_table_of<8>(task, columns, table);
    default: return build_exact_table_of<0>(task, columns, table);
  }
}

template <int Bits>
void look_up_exact(const BlockTask& task, const uint8_t* words) {
  const auto* tables = static_cast<const float*>(task.tables);
  float* sums = task.sums;
  for_each_word<Bits>(words, task.count, [=](int64_t o, uint32_t word) {
    const Float8 first = add(load(entry_at<kExactRows, Bits, 0>(tables, word)),
                             load(entry_at<kExactRows, Bits, 1>(tables, word)));
    const Float8 second = add(load(entry_at<kExactRows, Bits, 2>(tables, word)),
                              load(entry_at<kExactRows, Bits, 3>(tables, word)));
    store(sums + o * kExactRows, add(load(sums + o * kExactRows), add(first, second)));
  });
}

template <int Bits>
void exact_block_of(const BlockTask& task) {
  constexpr int kSlots = 1 << Bits;
  const RowPointers<kExactRows> rows(task);
  auto* tables = static_cast<float*>(task.tables);
  start_with_bias<kExactRows>(task);
  for (int64_t word = 0; word < task.num_words; ++word) {
    if (word % 2 == 0) load_columns<kExactRows>(task, rows, word / 2);
    for (int u = 0; u < kWordPositions; ++u) {
      const int64_t place = word % 2 * kWordPositions + u;
      float* table = tables + u * kSlots * kExactRows;
      if (word * kWordPositions + u < task.num_sub_vectors) {
        build_exact_table(task, task.columns + place * task.sub_vector_len * kExactRows, table);
      } else {
        __builtin_memset(table, 0, kSlots * kExactRows * sizeof(float));
      }
    }
    look_up_exact<Bits>(task, words_of(task, word));
  }
  finish<kExactRows>(task);
}

void exact_block(const BlockTask& task) {
  switch (task.index_bits) {
    case 4: return exact_block_of<4>(task);
    case 6: return exact_block_of<6>(task);
    default: return exact_block_of<8>(task);
  }
}
