// Vector operations of block_kernel.inl in AVX2 and FMA; with AVX-512 VNNI, which can work on the
// same 256-bit registers, the pair products take half the instructions.

struct Float8 {
  __m256 v;
};
template <int Rows>
struct Int16s;
template <>
struct Int16s<16> {
  __m256i v;
};
template <>
struct Int16s<8> {
  __m128i v;
};

inline Float8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Float8 a) { _mm256_storeu_ps(p, a.v); }
inline Float8 broadcast(float a) { return {_mm256_set1_ps(a)}; }
inline Float8 add(Float8 a, Float8 b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Float8 multiply(Float8 a, Float8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Float8 multiply_add(Float8 a, Float8 b, Float8 c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
inline Float8 divide(Float8 a, Float8 b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Float8 minimum(Float8 a, Float8 b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Float8 maximum(Float8 a, Float8 b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Float8 absolute(Float8 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline Float8 square_root(Float8 a) { return {_mm256_sqrt_ps(a.v)}; }
inline Float8 nearest(Float8 a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a * 2^n for whole n in -126..127: n goes straight into a float's exponent bits.
inline Float8 scale_by_power_of_two(Float8 a, Float8 n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_mul_ps(a.v, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)))};
}

inline void transpose(Float8 (&tile)[8]) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(tile[i].v, tile[i + 1].v);
    a[i + 1] = _mm256_unpackhi_ps(tile[i].v, tile[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    tile[i].v = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    tile[i + 4].v = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}

// Rounds to int16 and packs low | high << 16. NaN and infinities become 0x80000000, whose low half
// is 0; the scale reports them.
inline void store_pairs(int32_t* p, Float8 low, Float8 high) {
  const __m256i packed = _mm256_blend_epi16(
      _mm256_cvtps_epi32(low.v), _mm256_slli_epi32(_mm256_cvtps_epi32(high.v), 16), 0xAA);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed);
}

inline __m256i load_int(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
template <int Rows>
Int16s<Rows> load(const int16_t* p);
template <>
inline Int16s<16> load<16>(const int16_t* p) {
  return {load_int(p)};
}
template <>
inline Int16s<8> load<8>(const int16_t* p) {
  return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))};
}
inline void store(int16_t* p, Int16s<16> a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v);
}
inline void store(int16_t* p, Int16s<8> a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a.v); }
inline Int16s<16> add(Int16s<16> a, Int16s<16> b) { return {_mm256_add_epi16(a.v, b.v)}; }
inline Int16s<8> add(Int16s<8> a, Int16s<8> b) { return {_mm_add_epi16(a.v, b.v)}; }

// sum + a.low * b.low + a.high * b.high in each 32-bit lane.
inline __m256i add_pair_products(__m256i sum, __m256i a, __m256i b) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  return _mm256_dpwssd_epi32(sum, a, b);
#else
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
}

// The high halves of 32-bit sums. Of 16 rows, rows 0-7 are shifted down into the even int16 lanes
// and rows 8-15 left in the odd ones (RowScales knows this order); 8 rows are packed in order.
inline Int16s<16> high_halves(const __m256i (&sums)[2]) {
  return {_mm256_blend_epi16(_mm256_srli_epi32(sums[0], 16), sums[1], 0xAA)};
}
inline Int16s<8> high_halves(const __m256i (&sums)[1]) {
  const __m256i high = _mm256_srli_epi32(sums[0], 16);
  return {_mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1))};
}

// One sub-vector of all rows; product() gives round(<x, codeword> / 65536) for each row.
template <int Rows, int Pairs>
struct PairColumns {
  static constexpr int kCodewords = 1;
  static constexpr int kVectors = Rows / 8;
  static constexpr int kHeld = Pairs ? Pairs : 1;
  const int32_t* pairs;
  __m256i held[kHeld][kVectors];

  explicit PairColumns(const int32_t* p) : pairs(p) {
    for (int k = 0; k < kHeld; ++k) {
      for (int i = 0; i < kVectors; ++i) held[k][i] = load_int(p + k * Rows + 8 * i);
    }
  }

  Int16s<Rows> product(const int32_t* codeword, int64_t num_pairs) const {
    __m256i sums[kVectors];
    for (int i = 0; i < kVectors; ++i) sums[i] = _mm256_set1_epi32(0x8000);
    for (int64_t k = 0; k < num_pairs; ++k) {
      const __m256i c = _mm256_set1_epi32(codeword[k]);
      for (int i = 0; i < kVectors; ++i) {
        const __m256i x = Pairs ? held[k][i] : load_int(pairs + k * Rows + 8 * i);
        sums[i] = add_pair_products(sums[i], x, c);
      }
    }
    return high_halves(sums);
  }
};

// sums[0..7] += whole * scales
inline void accumulate8(__m256i whole, __m256 scales, float* sums) {
  _mm256_storeu_ps(sums, _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), scales, _mm256_loadu_ps(sums)));
}

// Adds int16 sums times each row's scale to float sums.
template <int Rows>
struct RowScales;

template <>
struct RowScales<16> {
  __m256 low_rows, high_rows;

  explicit RowScales(const float* scales)
      : low_rows(_mm256_loadu_ps(scales)), high_rows(_mm256_loadu_ps(scales + 8)) {}

  void accumulate(Int16s<16> sum, float* sums) const {
    accumulate8(_mm256_srai_epi32(_mm256_slli_epi32(sum.v, 16), 16), low_rows, sums);
    accumulate8(_mm256_srai_epi32(sum.v, 16), high_rows, sums + 8);
  }
};

template <>
struct RowScales<8> {
  __m256 rows;

  explicit RowScales(const float* scales) : rows(_mm256_loadu_ps(scales)) {}

  void accumulate(Int16s<8> sum, float* sums) const {
    accumulate8(_mm256_cvtepi16_epi32(sum.v), rows, sums);
  }
};
