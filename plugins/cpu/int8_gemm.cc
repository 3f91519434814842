// The int8 mode: rows of x are quantized once per call, then each task decodes a panel of outputs
// into int8 and multiplies all rows, or a part of them, with it.
#include <algorithm>
#include <atomic>
#include <thread>

#include "codebook_gemm.h"
#include "scratch.h"

namespace vq4dit {
namespace {

// Rows per task at least: fewer would not pay for decoding the panel again.
constexpr int64_t kMinPanelRows = 96;
constexpr int64_t kRowsPerQuantization = 32;

struct Int8Plan {
  const GemmCall& call;
  const Int8Kernels& kernels;
  Int8Rows rows = {};
  int64_t outputs_per_group;
  int64_t panels_per_group;
  int64_t row_parts;
  std::atomic<bool> out_of_memory{false};

  Int8Plan(const GemmCall& c, const Int8Kernels& k) : call(c), kernels(k) {
    const LayerSpec& spec = *call.spec;
    rows.in_features = spec.in_features;
    rows.sub_vector_len = spec.sub_vector_len;
    rows.place_of_column = call.place_of_column;
    rows.x = call.x;
    rows.stride = spec.num_words() * kWordPositions * spec.sub_vector_len;
    outputs_per_group = call.out_features / call.row_groups;
    panels_per_group = (outputs_per_group + kPanelOutputs - 1) / kPanelOutputs;
    const int64_t panels = panels_per_group * call.row_groups;
    const int64_t threads = std::max(1u, std::thread::hardware_concurrency());
    const int64_t most = std::max<int64_t>(1, call.num_rows / kMinPanelRows);
    row_parts = std::min(most, (threads + panels - 1) / std::max<int64_t>(1, panels));
  }

  size_t carve(uint8_t* base) {
    Carver carver(base);
    rows.quantized = carver.take<int8_t>(call.num_rows * rows.stride);
    rows.scales = carver.take<float>(call.num_rows);
    rows.sums = carver.take<int32_t>(call.num_rows);
    return carver.size();
  }

  int64_t total() const { return panels_per_group * call.row_groups * row_parts; }

  BlockTask task(int64_t panel) const;
};

BlockTask Int8Plan::task(int64_t panel) const {
  const LayerSpec& spec = *call.spec;
  const int64_t group = panel / panels_per_group;
  const int64_t first = panel % panels_per_group * kPanelOutputs;
  BlockTask task = {};
  task.in_features = spec.in_features;
  task.sub_vector_len = spec.sub_vector_len;
  task.num_words = spec.num_words();
  task.num_sub_vectors = spec.num_sub_vectors();
  task.out_features = call.out_features;
  task.bytes_per_row = spec.bytes_per_row();
  task.index_bits = spec.index_bits();
  task.four_major = spec.assignment_layout == AssignmentLayout::kFourMajor;
  task.activation = static_cast<int>(spec.activation);
  task.assignments = reinterpret_cast<const uint8_t*>(call.assignments);
  task.bias = call.bias;
  task.begin = group * outputs_per_group + first;
  task.count = std::min<int64_t>(kPanelOutputs, outputs_per_group - first);
  task.y = call.y;
  task.gate = call.gate;
  task.residual = call.residual;
  task.rows_per_gate = call.rows_per_gate;
  task.words_bytes = task.count * 4 + 4;
  return task;
}

void quantize_task(void* user_data, size_t index) {
  Int8Plan& plan = *static_cast<Int8Plan*>(user_data);
  const int64_t begin = static_cast<int64_t>(index) * kRowsPerQuantization;
  plan.kernels.quantize(plan.rows, begin,
                        std::min(begin + kRowsPerQuantization, plan.call.num_rows));
}

size_t carve_panel(BlockTask& task, Int8Panel& panel, uint8_t* base) {
  Carver carver(base);
  panel.decoded = carver.take<uint8_t>(panel.rows->stride * kPanelOutputs);
  task.words = carver.take<uint8_t>(task.words_bytes);
  return carver.size();
}

void panel_task(void* user_data, size_t index) {
  thread_local Scratch scratch;
  Int8Plan& plan = *static_cast<Int8Plan*>(user_data);
  const auto number = static_cast<int64_t>(index);
  const int64_t part = number % plan.row_parts;
  BlockTask task = plan.task(number / plan.row_parts);
  const int64_t group = task.begin / plan.outputs_per_group;
  const LayerSpec& spec = *plan.call.spec;
  Int8Panel panel = {};
  panel.rows = &plan.rows;
  panel.codebook = plan.call.int8->bytes.data() +
                   group * (int64_t{1} << spec.index_bits()) * spec.sub_vector_len;
  panel.codebook_scale = plan.call.int8->scales[group];
  uint8_t* memory = scratch.reserve(carve_panel(task, panel, nullptr));
  if (!memory) {  // called from C frames: nothing may be thrown through them
    plan.out_of_memory = true;
    return;
  }
  carve_panel(task, panel, memory);
  const int64_t rows = plan.call.num_rows;
  plan.kernels.panel(task, panel, rows * part / plan.row_parts,
                     rows * (part + 1) / plan.row_parts);
}

}  // namespace

void codebook_gemm_int8(const GemmCall& call, const Kernels& kernels, ParallelFor parallel_for,
                        void* context) {
  thread_local Scratch scratch;
  Int8Plan plan(call, kernels.int8);
  if (call.num_rows == 0 || plan.total() == 0) return;
  uint8_t* memory = scratch.reserve(plan.carve(nullptr));
  if (!memory) throw Error("out of memory for x in int8");
  plan.carve(memory);
  const int64_t blocks = (call.num_rows + kRowsPerQuantization - 1) / kRowsPerQuantization;
  parallel_for(context, quantize_task, static_cast<size_t>(blocks), &plan);
  parallel_for(context, panel_task, static_cast<size_t>(plan.total()), &plan);
  if (plan.out_of_memory) throw Error("out of memory for a panel of one thread");
}

}  // namespace vq4dit
