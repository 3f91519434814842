// What 512-bit registers add to vector_avx2.inl: 16 float lanes and 32 int16 lanes.

struct Float16 {
  __m512 v;
};

inline Float16 load(const float* p, Lanes<16>) { return {_mm512_loadu_ps(p)}; }
inline Float16 broadcast(float a, Lanes<16>) { return {_mm512_set1_ps(a)}; }
inline void store(float* p, Float16 a) { _mm512_storeu_ps(p, a.v); }
inline Float16 add(Float16 a, Float16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Float16 multiply(Float16 a, Float16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Float16 multiply_add(Float16 a, Float16 b, Float16 c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}

template <>
struct Int16s<32> {
  __m512i v;
};

template <>
inline Int16s<32> load<32>(const int16_t* p) {
  return {_mm512_loadu_si512(p)};
}
inline void store(int16_t* p, Int16s<32> a) { _mm512_storeu_si512(p, a.v); }
inline Int16s<32> add(Int16s<32> a, Int16s<32> b) { return {_mm512_add_epi16(a.v, b.v)}; }

// 8 rows and two codewords at a time: the entries of codeword c in the low half, of c + 1 in the
// high half.
template <int Pairs>
struct PairColumns<8, Pairs> {
  static constexpr int kCodewords = 2;
  static constexpr int kHeld = Pairs ? Pairs : 1;
  const int32_t* pairs;
  __m512i held[kHeld];

  explicit PairColumns(const int32_t* p) : pairs(p) {
    for (int k = 0; k < kHeld; ++k) held[k] = column(k);
  }

  __m512i column(int64_t pair) const {
    return _mm512_broadcast_i64x4(load_int(pairs + pair * 8));
  }

  // Pair k of codeword c in the low half, of codeword c + 1 in the high half.
  static __m512i two_codewords(const int32_t* codeword, int64_t num_pairs, int64_t k) {
    if (Pairs == 2) {  // both codewords in one load
      const auto both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codeword));
      const __m512i places = _mm512_inserti64x4(
          _mm512_set1_epi32(static_cast<int>(k)), _mm256_set1_epi32(static_cast<int>(k) + 2), 1);
      return _mm512_permutexvar_epi32(places, _mm512_castsi128_si512(both));
    }
    return _mm512_inserti64x4(_mm512_set1_epi32(codeword[k]),
                              _mm256_set1_epi32(codeword[num_pairs + k]), 1);
  }

  Int16s<16> product(const int32_t* codeword, int64_t num_pairs) const {
    __m512i sum = _mm512_set1_epi32(0x8000);
    for (int64_t k = 0; k < num_pairs; ++k) {
      sum = _mm512_dpwssd_epi32(sum, Pairs ? held[k] : column(k),
                                two_codewords(codeword, num_pairs, k));
    }
    return {_mm512_cvtepi32_epi16(_mm512_srli_epi32(sum, 16))};
  }
};

// 32 rows: rows 0-15 in the even int16 lanes, rows 16-31 in the odd ones.
template <int Pairs>
struct PairColumns<32, Pairs> {
  static constexpr int kCodewords = 1;
  static constexpr int kHeld = Pairs ? Pairs : 1;
  const int32_t* pairs;
  __m512i held[kHeld][2];

  explicit PairColumns(const int32_t* p) : pairs(p) {
    for (int k = 0; k < kHeld; ++k) {
      for (int i = 0; i < 2; ++i) held[k][i] = _mm512_loadu_si512(p + k * 32 + 16 * i);
    }
  }

  Int16s<32> product(const int32_t* codeword, int64_t num_pairs) const {
    __m512i sums[2] = {_mm512_set1_epi32(0x8000), _mm512_set1_epi32(0x8000)};
    for (int64_t k = 0; k < num_pairs; ++k) {
      const __m512i c = _mm512_set1_epi32(codeword[k]);
      for (int i = 0; i < 2; ++i) {
        const __m512i x = Pairs ? held[k][i] : _mm512_loadu_si512(pairs + k * 32 + 16 * i);
        sums[i] = _mm512_dpwssd_epi32(sums[i], x, c);
      }
    }
    return {_mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(sums[0], 16), sums[1])};
  }
};

// sums[0..15] += whole * scales
inline void accumulate16(__m512i whole, __m512 scales, float* sums) {
  _mm512_storeu_ps(sums, _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), scales, _mm512_loadu_ps(sums)));
}

template <>
struct RowScales<32> {
  __m512 low_rows, high_rows;

  explicit RowScales(const float* scales)
      : low_rows(_mm512_loadu_ps(scales)), high_rows(_mm512_loadu_ps(scales + 16)) {}

  void accumulate(Int16s<32> sum, float* sums) const {
    accumulate16(_mm512_srai_epi32(_mm512_slli_epi32(sum.v, 16), 16), low_rows, sums);
    accumulate16(_mm512_srai_epi32(sum.v, 16), high_rows, sums + 16);
  }
};
