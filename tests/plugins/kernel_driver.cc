// Runs every kernel of this machine on random layers, without ONNX Runtime, and prints per case
// "isa accuracy codebook_size sub_vector_len group_order error alone visible": the relative error
// against float64; 1 where each row alone gave the bits it has in the batch; 1 where a NaN or an
// infinity in one row stayed visible in that row only. test_cross_compiled.py reads it.
#include <cmath>
#include <cstdio>
#include <random>

#include "codebook_gemm.h"
#include "isa.h"

namespace {

using namespace vq4dit;

constexpr int64_t kOutFeatures = 37;
constexpr int64_t kInFeatures = 160;
constexpr int64_t kRows = 19;

struct Layer {
  LayerSpec spec;
  std::vector<float> codebook, bias, weight;
  std::vector<int8_t> assignments;
  QuantizedCodebook quantized;
  Int8Codebook int8;
  std::vector<int32_t> places;
};

Layer random_layer(int64_t codebook_size, int64_t length, GroupOrder order, std::mt19937& random) {
  Layer layer;
  layer.spec.in_features = kInFeatures;
  layer.spec.codebook_size = codebook_size;
  layer.spec.sub_vector_len = length;
  layer.spec.group_order = order;
  layer.spec.assignment_layout = AssignmentLayout::kFourMajor;
  layer.spec.check();
  std::normal_distribution<float> normal;
  layer.codebook.resize(codebook_size * length);
  for (float& value : layer.codebook) value = normal(random);
  layer.bias.resize(kOutFeatures);
  for (float& value : layer.bias) value = normal(random);
  layer.assignments.resize(layer.spec.num_words() * kOutFeatures * layer.spec.word_bytes());
  for (int8_t& byte : layer.assignments) byte = static_cast<int8_t>(random());
  layer.weight.resize(kOutFeatures * kInFeatures);
  decode_rows(layer.spec, layer.codebook.data(), 1, layer.assignments.data(), kOutFeatures, 0,
              kOutFeatures, layer.weight.data());
  layer.quantized = quantize_codebook(layer.spec, layer.codebook.data(), 1);
  layer.int8 = int8_codebook(layer.spec, layer.codebook.data(), 1);
  layer.places = layer.spec.place_of_column();
  return layer;
}

void serially(void*, void (*task)(void*, size_t), size_t total, void* user_data) {
  for (size_t i = 0; i < total; ++i) task(user_data, i);
}

std::vector<float> run(const Layer& layer, const float* x, int64_t rows, Accuracy accuracy,
                       const Kernels& kernels) {
  std::vector<float> y(rows * kOutFeatures);
  GemmCall call = {};
  call.spec = &layer.spec;
  call.place_of_column = layer.places.data();
  call.out_features = kOutFeatures;
  call.row_groups = 1;
  call.num_rows = rows;
  call.x = x;
  call.codebook = layer.codebook.data();
  call.quantized = &layer.quantized;
  call.int8 = &layer.int8;
  call.assignments = layer.assignments.data();
  call.bias = layer.bias.data();
  call.y = y.data();
  if (accuracy == Accuracy::kInt8) {
    codebook_gemm_int8(call, kernels, serially, nullptr);
  } else {
    codebook_gemm(call, accuracy, kernels, serially, nullptr);
  }
  return y;
}

double relative_error(const Layer& layer, const std::vector<float>& x,
                      const std::vector<float>& y) {
  double error = 0, norm = 0;
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t o = 0; o < kOutFeatures; ++o) {
      double expected = layer.bias[o];
      for (int64_t i = 0; i < kInFeatures; ++i) {
        expected += static_cast<double>(x[row * kInFeatures + i]) * layer.weight[o * kInFeatures + i];
      }
      const double difference = y[row * kOutFeatures + o] - expected;
      error += difference * difference;
      norm += expected * expected;
    }
  }
  return std::sqrt(error / norm);
}

bool rows_alone_are_the_same(const Layer& layer, const std::vector<float>& x,
                             const std::vector<float>& y, Accuracy accuracy,
                             const Kernels& kernels) {
  for (int64_t row = 0; row < kRows; ++row) {
    const std::vector<float> alone = run(layer, &x[row * kInFeatures], 1, accuracy, kernels);
    for (int64_t o = 0; o < kOutFeatures; ++o) {
      if (alone[o] != y[row * kOutFeatures + o]) return false;
    }
  }
  return true;
}

bool non_finite_stays_in_its_row(const Layer& layer, std::vector<float> x,
                                 const std::vector<float>& y, Accuracy accuracy,
                                 const Kernels& kernels) {
  constexpr int64_t kBadRow = 3;
  for (const float value : {NAN, INFINITY, -INFINITY}) {
    x[kBadRow * kInFeatures + 50] = value;
    const std::vector<float> found = run(layer, x.data(), kRows, accuracy, kernels);
    for (int64_t i = 0; i < kRows * kOutFeatures; ++i) {
      const bool bad = i / kOutFeatures == kBadRow;
      if (bad ? std::isfinite(found[i]) : found[i] != y[i]) return false;
    }
  }
  return true;
}

}  // namespace

int main() {
  struct Configuration {
    int64_t codebook_size, length;
    GroupOrder order;
  };
  const Configuration configurations[] = {
      {256, 8, GroupOrder::kMma32},      {256, 4, GroupOrder::kMma16}, {64, 2, GroupOrder::kContiguous},
      {256, 2, GroupOrder::kContiguous}, {16, 1, GroupOrder::kContiguous},
      {256, 5, GroupOrder::kContiguous},
  };
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(kRows * kInFeatures);
  for (float& value : x) value = normal(random);
  for (const Configuration& c : configurations) {
    const Layer layer = random_layer(c.codebook_size, c.length, c.order, random);
    for (const Kernels* kernels : available_kernels()) {
      const char* const names[] = {"fast", "exact", "int8"};  // by number
      for (const Accuracy accuracy : {Accuracy::kFast, Accuracy::kExact, Accuracy::kInt8}) {
        const std::vector<float> y = run(layer, x.data(), kRows, accuracy, *kernels);
        std::printf("%s %s %d %d %d %g %d %d\n", kernels->name,
                    names[static_cast<int>(accuracy)],
                    static_cast<int>(c.codebook_size), static_cast<int>(c.length),
                    static_cast<int>(c.order), relative_error(layer, x, y),
                    rows_alone_are_the_same(layer, x, y, accuracy, *kernels),
                    non_finite_stays_in_its_row(layer, x, y, accuracy, *kernels));
      }
    }
  }
  return 0;
}
