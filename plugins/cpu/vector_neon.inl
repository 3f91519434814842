// Vector operations of block_kernel.inl in NEON (Advanced SIMD of AArch64).

struct Float8 {
  float32x4_t low, high;
};
template <int Rows>
struct Int16s {
  int16x8_t part[Rows / 8];
};

// Float8 from a function of four lanes.
template <typename Function, typename... Operands>
inline Float8 each_half(Function function, const Operands&... operands) {
  return {function(operands.low...), function(operands.high...)};
}

inline Float8 load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline void store(float* p, Float8 a) {
  vst1q_f32(p, a.low);
  vst1q_f32(p + 4, a.high);
}
inline Float8 broadcast(float a) { return {vdupq_n_f32(a), vdupq_n_f32(a)}; }
inline Float8 add(Float8 a, Float8 b) {
  return each_half([](auto x, auto y) { return vaddq_f32(x, y); }, a, b);
}
inline Float8 multiply(Float8 a, Float8 b) {
  return each_half([](auto x, auto y) { return vmulq_f32(x, y); }, a, b);
}
inline Float8 multiply_add(Float8 a, Float8 b, Float8 c) {
  return each_half([](auto x, auto y, auto z) { return vfmaq_f32(z, x, y); }, a, b, c);
}
inline Float8 divide(Float8 a, Float8 b) {
  return each_half([](auto x, auto y) { return vdivq_f32(x, y); }, a, b);
}
inline Float8 minimum(Float8 a, Float8 b) {
  return each_half([](auto x, auto y) { return vminq_f32(x, y); }, a, b);
}
inline Float8 maximum(Float8 a, Float8 b) {
  return each_half([](auto x, auto y) { return vmaxq_f32(x, y); }, a, b);
}
inline Float8 absolute(Float8 a) {
  return each_half([](auto x) { return vabsq_f32(x); }, a);
}
inline Float8 square_root(Float8 a) {
  return each_half([](auto x) { return vsqrtq_f32(x); }, a);
}
inline Float8 nearest(Float8 a) {
  return each_half([](auto x) { return vrndnq_f32(x); }, a);
}
// a * 2^n for whole n in -126..127: n goes straight into a float's exponent bits.
inline Float8 scale_by_power_of_two(Float8 a, Float8 n) {
  return each_half(
      [](auto x, auto power) {
        const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(power), vdupq_n_s32(127));
        return vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
      },
      a, n);
}

inline void transpose4(float32x4_t& a, float32x4_t& b, float32x4_t& c, float32x4_t& d) {
  const float64x2_t ab_even = vreinterpretq_f64_f32(vtrn1q_f32(a, b));
  const float64x2_t ab_odd = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
  const float64x2_t cd_even = vreinterpretq_f64_f32(vtrn1q_f32(c, d));
  const float64x2_t cd_odd = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
  a = vreinterpretq_f32_f64(vtrn1q_f64(ab_even, cd_even));
  b = vreinterpretq_f32_f64(vtrn1q_f64(ab_odd, cd_odd));
  c = vreinterpretq_f32_f64(vtrn2q_f64(ab_even, cd_even));
  d = vreinterpretq_f32_f64(vtrn2q_f64(ab_odd, cd_odd));
}

inline void transpose(Float8 (&tile)[8]) {
  transpose4(tile[0].low, tile[1].low, tile[2].low, tile[3].low);
  transpose4(tile[0].high, tile[1].high, tile[2].high, tile[3].high);
  transpose4(tile[4].low, tile[5].low, tile[6].low, tile[7].low);
  transpose4(tile[4].high, tile[5].high, tile[6].high, tile[7].high);
  for (int i = 0; i < 4; ++i) {
    const float32x4_t kept = tile[i].high;
    tile[i].high = tile[i + 4].low;
    tile[i + 4].low = kept;
  }
}

// Rounds to int16 and packs low | high << 16. NaN becomes 0; the scale reports it.
inline void store_pairs(int32_t* p, Float8 low, Float8 high) {
  vst1q_s32(p, vsliq_n_s32(vcvtnq_s32_f32(low.low), vcvtnq_s32_f32(high.low), 16));
  vst1q_s32(p + 4, vsliq_n_s32(vcvtnq_s32_f32(low.high), vcvtnq_s32_f32(high.high), 16));
}

template <int Rows>
inline Int16s<Rows> load(const int16_t* p) {
  Int16s<Rows> result;
  for (int i = 0; i < Rows / 8; ++i) result.part[i] = vld1q_s16(p + 8 * i);
  return result;
}
template <int Rows>
inline void store(int16_t* p, Int16s<Rows> a) {
  for (int i = 0; i < Rows / 8; ++i) vst1q_s16(p + 8 * i, a.part[i]);
}
template <int Rows>
inline Int16s<Rows> add(Int16s<Rows> a, Int16s<Rows> b) {
  for (int i = 0; i < Rows / 8; ++i) a.part[i] = vaddq_s16(a.part[i], b.part[i]);
  return a;
}

// One sub-vector of all rows, the two columns of a pair apart; product() gives
// round(<x, codeword> / 65536) for each row.
template <int Rows, int Pairs>
struct PairColumns {
  static constexpr int kCodewords = 1;
  static constexpr int kHeld = Pairs ? Pairs : 1;
  const int32_t* pairs;
  int16x8x2_t held[kHeld][Rows / 8];

  explicit PairColumns(const int32_t* p) : pairs(p) {
    for (int k = 0; k < kHeld; ++k) {
      for (int i = 0; i < Rows / 8; ++i) held[k][i] = columns(k, i);
    }
  }

  // vld2 takes the pairs apart: low halves in val[0], high halves in val[1].
  int16x8x2_t columns(int64_t pair, int part) const {
    return vld2q_s16(reinterpret_cast<const int16_t*>(pairs + pair * Rows + 8 * part));
  }

  Int16s<Rows> product(const int32_t* codeword, int64_t num_pairs) const {
    int32x4_t sums[Rows / 8][2];
    for (auto& sum : sums) sum[0] = sum[1] = vdupq_n_s32(0x8000);
    for (int64_t k = 0; k < num_pairs; ++k) {
      const int16x8_t low = vdupq_n_s16(static_cast<int16_t>(codeword[k] & 0xffff));
      const int16x8_t high = vdupq_n_s16(static_cast<int16_t>(codeword[k] >> 16));
      for (int i = 0; i < Rows / 8; ++i) {
        const int16x8x2_t x = Pairs ? held[k][i] : columns(k, i);
        sums[i][0] = vmlal_s16(sums[i][0], vget_low_s16(x.val[0]), vget_low_s16(low));
        sums[i][1] = vmlal_high_s16(sums[i][1], x.val[0], low);
        sums[i][0] = vmlal_s16(sums[i][0], vget_low_s16(x.val[1]), vget_low_s16(high));
        sums[i][1] = vmlal_high_s16(sums[i][1], x.val[1], high);
      }
    }
    Int16s<Rows> result;
    for (int i = 0; i < Rows / 8; ++i) {
      result.part[i] = vshrn_high_n_s32(vshrn_n_s32(sums[i][0], 16), sums[i][1], 16);
    }
    return result;
  }
};

// sums[0..3] += whole * scales
inline void accumulate4(int32x4_t whole, float32x4_t scales, float* sums) {
  vst1q_f32(sums, vfmaq_f32(vld1q_f32(sums), vcvtq_f32_s32(whole), scales));
}

// Adds int16 sums times each row's scale to float sums.
template <int Rows>
struct RowScales {
  float32x4_t scales[Rows / 4];

  explicit RowScales(const float* p) {
    for (int i = 0; i < Rows / 4; ++i) scales[i] = vld1q_f32(p + 4 * i);
  }

  void accumulate(Int16s<Rows> sum, float* sums) const {
    for (int i = 0; i < Rows / 8; ++i) {
      accumulate4(vmovl_s16(vget_low_s16(sum.part[i])), scales[2 * i], sums + 8 * i);
      accumulate4(vmovl_high_s16(sum.part[i]), scales[2 * i + 1], sums + 8 * i + 4);
    }
  }
};
