// Cuts a call into tasks (a block of rows times a range of outputs) and gives each its scratch.
#include "codebook_gemm.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "scratch.h"

namespace vq4dit {
namespace {

// Sums of one task, outputs times lanes (576 KB): they should stay in L2 with the tables.
constexpr int64_t kMaxSums = 4608 * 32;
// A task below this would spend more on building its tables than on looking them up.
constexpr int64_t kMinOutputs = 2048;
size_t carve(BlockTask& task, Accuracy accuracy, const BlockKernel& kernel, uint8_t* base) {
  Carver carver(base);
  const bool fast = accuracy == Accuracy::kFast;
  const int64_t rows = kernel.lanes;
  const int64_t words = kernel.words_per_pass;
  const int64_t entries = words * kWordPositions * (int64_t{1} << task.index_bits) * rows;
  task.tables = fast ? static_cast<void*>(carver.take<int16_t>(entries))
                     : static_cast<void*>(carver.take<float>(entries));
  task.columns = carver.take<float>(kBlockPositions * task.sub_vector_len * rows);
  task.sums = carver.take<float>((task.count + kOutputTile - 1) / kOutputTile * kOutputTile * rows);
  if (fast) task.pairs = carver.take<int32_t>(kBlockPositions * task.num_pairs * rows);
  if (fast && words == 1) task.partial = carver.take<int16_t>(task.count * rows);
  task.words_bytes = task.count * 4 + 4;
  if (!task.four_major) task.words = carver.take<uint8_t>(words * task.words_bytes);
  return carver.size();
}

struct Plan {
  const GemmCall& call;
  Accuracy accuracy;
  const BlockKernel* kernels;  // of this mode, Kernels::kMaxWidths
  int64_t rows_per_block;
  int64_t num_blocks;
  int64_t outputs_per_group;  // O / R
  int64_t chunks_per_group;
  std::atomic<bool> out_of_memory{false};

  Plan(const GemmCall& c, Accuracy a, const Kernels& k) : call(c), accuracy(a) {
    kernels = accuracy == Accuracy::kFast ? k.fast : k.exact;
    rows_per_block = 0;
    for (int i = 0; i < Kernels::kMaxWidths; ++i) {
      if (kernels[i].rows > 0) rows_per_block = kernels[i].rows;
    }
    num_blocks = (call.num_rows + rows_per_block - 1) / rows_per_block;
    outputs_per_group = call.out_features / call.row_groups;
    const int64_t lanes = kernel_for(std::min(rows_per_block, call.num_rows)).lanes;
    const int64_t max_outputs = kMaxSums / lanes;
    chunks_per_group = (outputs_per_group + max_outputs - 1) / max_outputs;
    // Few rows and one group: split the outputs, so that every thread has work.
    const int64_t threads = std::max(1u, std::thread::hardware_concurrency());
    while (total() < threads && outputs_per_group / (chunks_per_group + 1) >= kMinOutputs) {
      ++chunks_per_group;
    }
  }

  int64_t total() const { return num_blocks * call.row_groups * chunks_per_group; }

  BlockTask task(int64_t index) const;

  // The narrowest one that has a lane for every row.
  const BlockKernel& kernel_for(int64_t num_rows) const {
    const BlockKernel* kernel = kernels;
    while (kernel->rows < num_rows) ++kernel;
    return *kernel;
  }
};

// Tasks count through the blocks of rows first, so that neighbours read the same assignments.
BlockTask Plan::task(int64_t index) const {
  const LayerSpec& spec = *call.spec;
  const int64_t block = index % num_blocks;
  const int64_t chunk = index / num_blocks % chunks_per_group;
  const int64_t group = index / num_blocks / chunks_per_group;
  BlockTask task = {};
  task.in_features = spec.in_features;
  task.codebook_size = spec.codebook_size;
  task.sub_vector_len = spec.sub_vector_len;
  task.num_pairs = spec.num_pairs();
  task.num_words = spec.num_words();
  task.num_sub_vectors = spec.num_sub_vectors();
  task.out_features = call.out_features;
  task.bytes_per_row = spec.bytes_per_row();
  task.index_bits = spec.index_bits();
  task.four_major = spec.assignment_layout == AssignmentLayout::kFourMajor;
  task.activation = static_cast<int>(spec.activation);
  task.place_of_column = call.place_of_column;
  task.assignments = reinterpret_cast<const uint8_t*>(call.assignments);
  task.codebook = call.codebook + group * spec.codebook_size * spec.sub_vector_len;
  if (accuracy == Accuracy::kFast) {
    task.codebook_pairs =
        call.quantized->pairs.data() + group * spec.codebook_size * task.num_pairs;
    task.codebook_scale = call.quantized->scales[group];
  }
  task.bias = call.bias;
  task.row = block * rows_per_block;
  task.x = call.x + task.row * spec.in_features;
  task.num_rows = std::min(rows_per_block, call.num_rows - task.row);
  const int64_t first = outputs_per_group * chunk / chunks_per_group;
  const int64_t last = outputs_per_group * (chunk + 1) / chunks_per_group;
  task.begin = group * outputs_per_group + first;
  task.count = last - first;
  task.y = call.y;
  task.gate = call.gate;
  task.residual = call.residual;
  task.rows_per_gate = call.rows_per_gate;
  return task;
}

void run_task(void* user_data, size_t index) {
  thread_local Scratch scratch;
  Plan& plan = *static_cast<Plan*>(user_data);
  BlockTask task = plan.task(static_cast<int64_t>(index));
  const BlockKernel& kernel = plan.kernel_for(task.num_rows);
  uint8_t* memory = scratch.reserve(carve(task, plan.accuracy, kernel, nullptr));
  if (!memory) {  // called from C frames: nothing may be thrown through them
    plan.out_of_memory = true;
    return;
  }
  carve(task, plan.accuracy, kernel, memory);
  kernel.run(task);
}

}  // namespace

void codebook_gemm(const GemmCall& call, Accuracy accuracy, const Kernels& kernels,
                   ParallelFor parallel_for, void* context) {
  Plan plan(call, accuracy, kernels);
  if (plan.total() == 0) return;
  parallel_for(context, run_task, static_cast<size_t>(plan.total()), &plan);
  if (plan.out_of_memory) throw Error("out of memory for the tables and sums of one thread");
}

}  // namespace vq4dit
