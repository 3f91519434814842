#include "kernel_table.h"

namespace vq4dit {
namespace {

constexpr int64_t kStepColumns = 64;  // plugins/layout.py, STEP_COLUMNS
constexpr int64_t kMaxGridY = 65535;
constexpr int64_t kMaxGridX = 2147483647;

int64_t ceil_divide(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

int64_t blocks_x(const Kernel& kernel, const Problem& problem) {
  if (kernel.rows_per_block) return ceil_divide(problem.rows, kernel.rows_per_block);
  const int64_t steps = ceil_divide(problem.attributes.in_features, kStepColumns);
  return ceil_divide(steps, kernel.steps_per_block);
}

// As plugins/cuda/launch.py; blocks do not cross row groups.
int64_t blocks_y(const Kernel& kernel, const Problem& problem) {
  return problem.row_groups *
         ceil_divide(problem.out_features / problem.row_groups, kernel.block_n);
}

}  // namespace

const Kernel* find_kernel(int32_t tactic) {
  for (size_t i = 0; i < kNumKernels; ++i) {
    if (kKernels[i].tactic == tactic) return &kKernels[i];
  }
  return nullptr;
}

const Kernel* first_kernel(const Problem& problem) {
  for (size_t i = 0; i < kNumKernels; ++i) {
    if (takes(kKernels[i], problem)) return &kKernels[i];
  }
  return nullptr;
}

bool takes(const Kernel& kernel, const Problem& problem) {
  const OpAttributes& a = problem.attributes;
  return kernel.op == problem.op && kernel.element == problem.element &&
         kernel.codebook_size == a.codebook_size && kernel.sub_vector_len == a.sub_vector_len &&
         kernel.group_order == a.group_order && kernel.activation == a.activation &&
         kernel.assignment_layout == a.assignment_layout && a.in_features % 8 == 0 &&
         problem.row_groups > 0 && problem.out_features % problem.row_groups == 0 &&
         blocks_y(kernel, problem) <= kMaxGridY && blocks_x(kernel, problem) <= kMaxGridX;
}

Grid grid_for(const Kernel& kernel, const Problem& problem) {
  return {{static_cast<uint32_t>(blocks_x(kernel, problem)),
           static_cast<uint32_t>(blocks_y(kernel, problem)), 1},
          {kernel.threads, 1, 1},
          kernel.shared_bytes};
}

int32_t scalar_value(Scalar scalar, const Problem& problem) {
  switch (scalar) {
    case Scalar::kM:
      return static_cast<int32_t>(problem.rows);
    case Scalar::kOutFeatures:
      return static_cast<int32_t>(problem.out_features);
    case Scalar::kInFeatures:
      return problem.attributes.in_features;
    case Scalar::kRowGroups:
      return static_cast<int32_t>(problem.row_groups);
    case Scalar::kSequence:
      return static_cast<int32_t>(problem.sequence);
  }
  return 0;
}

}  // namespace vq4dit
