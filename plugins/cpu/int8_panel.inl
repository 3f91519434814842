// The int8 mode for one panel of outputs: codewords of int8 are put where the instruction for four
// int8 products wants them, and multiplied with int8 rows of x (README.md, "int8 mode").
//
// Sums are integers, hence the same for any order, number of rows and instruction set. Included
// behind block_kernel.inl by each kernels_*.cc, like that file in an unnamed namespace.

// x / scale, rounded, for rows [begin, end); a row that holds NaN or infinity gets the scale NaN.
void quantize_rows(const Int8Rows& rows, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* x = rows.x + row * rows.in_features;
    const int64_t whole = rows.in_features / 8 * 8;
    Float8 largest = broadcast(0.0f), broken = broadcast(0.0f);
    for (int64_t i = 0; i < whole; i += 8) {
      const Float8 value = load(x + i);
      largest = maximum(largest, absolute(value));
      broken = multiply_add(value, broadcast(0.0f), broken);  // 0, or NaN for ever
    }
    float lanes[8], broken_lanes[8];
    store(lanes, largest);
    store(broken_lanes, broken);
    float most = 0.0f, zero = 0.0f;
    for (int i = 0; i < 8; ++i) {
      most = lanes[i] > most ? lanes[i] : most;
      zero += broken_lanes[i];
    }
    for (int64_t i = whole; i < rows.in_features; ++i) {
      const float size = x[i] < 0.0f ? -x[i] : x[i];
      most = size > most ? size : most;
      zero += x[i] * 0.0f;
    }
    rows.scales[row] = zero == 0.0f ? most / 127.0f : zero;
    const bool usable = zero == 0.0f && most >= kSmallestRow;
    rows.sums[row] = place_row(rows, x, usable ? 127.0f / most : 0.0f, usable,
                               rows.quantized + row * rows.stride);
  }
}

// Codewords of one panel, four bytes of consecutive places in each word of 32 bits:
// panel[place / 4][output][place % 4].
template <int Bits>
void decode_panel(const BlockTask& task, const Int8Panel& panel) {
  const int64_t length = task.sub_vector_len;
  constexpr uint32_t kMask = (1u << Bits) - 1u;
  for (int64_t word = 0; word < task.num_words; ++word) {
    const WordStreams<1> streams = streams_of<1>(task, word);
    if (Bits == 8 && length == 4 && task.count == kPanelOutputs &&
        gather_codewords(streams.at[0], panel.codebook, panel.decoded + word * 16 * kPanelOutputs)) {
      continue;
    }
    for_each_output<Bits, 1>(streams, task.count, [&](int64_t o, const PassWords<1>& words) {
      for (int64_t u = 0; u < kWordPositions; ++u) {
        const uint8_t* codeword = panel.codebook + (words.at[0] >> (Bits * u) & kMask) * length;
        const int64_t place = (word * kWordPositions + u) * length;
        for (int64_t t = 0; t < length; ++t) {
          const int64_t at = place + t;
          panel.decoded[(at / 4 * kPanelOutputs + o) * 4 + at % 4] = codeword[t];
        }
      }
    });
  }
}

// Rows of y for one panel: integer sums, then scale, bias and the rest.
template <int Rows>
void finish_panel_rows(const BlockTask& task, const Int8Panel& panel, int64_t row) {
  int32_t sums[Rows * kPanelOutputs];
  const Int8Rows& rows = *panel.rows;
  dot_rows<Rows>(rows.quantized + row * rows.stride, rows.stride, panel.decoded, rows.stride / 4,
                 sums);
  for (int r = 0; r < Rows; ++r) {
    // Bytes of the panel are codewords + 128.
    const int32_t offset = 128 * rows.sums[row + r];
    float whole[kPanelOutputs];
    for (int o = 0; o < kPanelOutputs; ++o) {
      whole[o] = static_cast<float>(sums[r * kPanelOutputs + o] - offset);
    }
    const Float8 scale = broadcast(rows.scales[row + r] * panel.codebook_scale);
    for (int64_t o = 0; o < task.count; o += 8) {
      const Float8 bias = load_some(task.bias + task.begin + o, task.count - o);
      write_outputs(task, row + r, o, multiply_add(load(whole + o), scale, bias));
    }
  }
}

// All rows [begin, end) of one panel.
void int8_panel(const BlockTask& task, const Int8Panel& panel, int64_t begin, int64_t end) {
  if (task.count < kPanelOutputs) {
    __builtin_memset(panel.decoded, 0, panel.rows->stride * kPanelOutputs);
  }
  switch (task.index_bits) {
    case 4: decode_panel<4>(task, panel); break;
    case 6: decode_panel<6>(task, panel); break;
    default: decode_panel<8>(task, panel); break;
  }
  int64_t row = begin;
  for (; row + 6 <= end; row += 6) finish_panel_rows<6>(task, panel, row);
  for (; row + 2 <= end; row += 2) finish_panel_rows<2>(task, panel, row);
  for (; row < end; ++row) finish_panel_rows<1>(task, panel, row);
}
