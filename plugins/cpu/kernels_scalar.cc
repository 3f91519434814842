// The kernels in plain C++: any machine. Lanes are short loops that compilers turn into the
// vectors of the base instruction set (SSE2, NEON).
#include <cmath>
#include <cstring>

#include "kernels.h"

#if !defined(__GNUC__)
#define __builtin_memcpy std::memcpy
#define __builtin_memset std::memset
#define __builtin_lrintf std::lrintf
#endif

namespace vq4dit {
namespace {

struct Float8 {
  float lane[8];
};
template <int Rows>
struct Int16s {
  int16_t lane[Rows];
};

template <typename Function>
inline Float8 per_lane(Function function) {
  Float8 result;
  for (int i = 0; i < 8; ++i) result.lane[i] = function(i);
  return result;
}

inline Float8 load(const float* p) {
  return per_lane([&](int i) { return p[i]; });
}
inline void store(float* p, const Float8& a) {
  for (int i = 0; i < 8; ++i) p[i] = a.lane[i];
}
inline Float8 broadcast(float a) {
  return per_lane([&](int) { return a; });
}
inline Float8 add(const Float8& a, const Float8& b) {
  return per_lane([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Float8 multiply(const Float8& a, const Float8& b) {
  return per_lane([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline Float8 multiply_add(const Float8& a, const Float8& b, const Float8& c) {
  return per_lane([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
inline Float8 divide(const Float8& a, const Float8& b) {
  return per_lane([&](int i) { return a.lane[i] / b.lane[i]; });
}
inline Float8 minimum(const Float8& a, const Float8& b) {
  return per_lane([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Float8 maximum(const Float8& a, const Float8& b) {
  return per_lane([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Float8 absolute(const Float8& a) {
  return per_lane([&](int i) { return std::fabs(a.lane[i]); });
}
inline Float8 square_root(const Float8& a) {
  return per_lane([&](int i) { return std::sqrt(a.lane[i]); });
}
inline Float8 nearest(const Float8& a) {
  return per_lane([&](int i) { return std::nearbyint(a.lane[i]); });
}
// a * 2^n for whole n in -126..127: n goes straight into a float's exponent bits.
inline Float8 scale_by_power_of_two(const Float8& a, const Float8& n) {
  return per_lane([&](int i) {
    const bool is_number = n.lane[i] == n.lane[i];
    const uint32_t bits = static_cast<uint32_t>((is_number ? static_cast<int>(n.lane[i]) : 0) + 127)
                          << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return a.lane[i] * power;
  });
}
inline void transpose(Float8 (&tile)[8]) {
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < i; ++j) {
      const float kept = tile[i].lane[j];
      tile[i].lane[j] = tile[j].lane[i];
      tile[j].lane[i] = kept;
    }
  }
}

// Rounds to int16 (NaN and infinities, which the scale reports, to 0) and packs low | high << 16.
inline uint32_t int16_bits(float value) {
  const bool fits = value >= -32768.0f && value <= 32767.0f;
  const auto whole = static_cast<int32_t>(std::lrintf(fits ? value : 0.0f));
  return static_cast<uint32_t>(whole) & 0xffffu;
}
inline void store_pairs(int32_t* p, const Float8& low, const Float8& high) {
  for (int i = 0; i < 8; ++i) {
    p[i] = static_cast<int32_t>(int16_bits(low.lane[i]) | int16_bits(high.lane[i]) << 16);
  }
}

template <int Rows>
inline Int16s<Rows> load(const int16_t* p) {
  Int16s<Rows> result;
  for (int i = 0; i < Rows; ++i) result.lane[i] = p[i];
  return result;
}
template <int Rows>
inline void store(int16_t* p, const Int16s<Rows>& a) {
  for (int i = 0; i < Rows; ++i) p[i] = a.lane[i];
}
template <int Rows>
inline Int16s<Rows> add(const Int16s<Rows>& a, const Int16s<Rows>& b) {
  Int16s<Rows> result;
  for (int i = 0; i < Rows; ++i) result.lane[i] = static_cast<int16_t>(a.lane[i] + b.lane[i]);
  return result;
}

inline int32_t low_half(int32_t pair) { return static_cast<int16_t>(pair & 0xffff); }
inline int32_t high_half(int32_t pair) { return pair >> 16; }

// One sub-vector of all rows; product() gives round(<x, codeword> / 65536) for each row.
template <int Rows, int Pairs>
struct PairColumns {
  static constexpr int kCodewords = 1;
  const int32_t* pairs;

  explicit PairColumns(const int32_t* p) : pairs(p) {}

  Int16s<Rows> product(const int32_t* codeword, int64_t num_pairs) const {
    int32_t dot[Rows];
    for (int i = 0; i < Rows; ++i) dot[i] = 0x8000;
    for (int64_t k = 0; k < num_pairs; ++k) {
      const int32_t low = low_half(codeword[k]), high = high_half(codeword[k]);
      for (int i = 0; i < Rows; ++i) {
        const int32_t x = pairs[k * Rows + i];
        dot[i] += low_half(x) * low + high_half(x) * high;
      }
    }
    Int16s<Rows> result;
    for (int i = 0; i < Rows; ++i) result.lane[i] = static_cast<int16_t>(dot[i] >> 16);
    return result;
  }
};

// Adds int16 sums times each row's scale to float sums.
template <int Rows>
struct RowScales {
  const float* scales;

  explicit RowScales(const float* s) : scales(s) {}

  void accumulate(const Int16s<Rows>& sum, float* sums) const {
    for (int i = 0; i < Rows; ++i) sums[i] += static_cast<float>(sum.lane[i]) * scales[i];
  }
};

#include "block_kernel.inl"

#include "int8_portable.inl"
#include "int8_panel.inl"

}  // namespace

const Kernels kScalarKernels = {
    "scalar",
    {{8, 8, 1, fast_block<8, 1>}, {16, 16, 1, fast_block<16, 1>}, {}, {}},
    {{8, 8, 1, exact_block<8, 1>}, {}, {}, {}},
    {quantize_rows, int8_panel},
};

}  // namespace vq4dit
