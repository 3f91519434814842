// The kernels that this library carries, as data. The table is generated from plugins/cuda by
// `python -m vq4dit.plugins.tensorrt.embed`: names, sizes and parameters are written once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

#include "driver.h"
#include "op_attributes.h"

namespace vq4dit {

enum class Element : int32_t { kHalf = 0, kBfloat16 = 1 };

// The integers that a kernel takes; as plugins/cuda/parameters.py names them.
enum class Scalar : int32_t { kM, kOutFeatures, kInFeatures, kRowGroups, kSequence };
constexpr int32_t kMaxScalars = 8;

// Everything that the choice and the launch of a kernel depend on.
struct Problem {
  OpKind op;
  Element element;
  OpAttributes attributes;
  int64_t rows;          // M, rows of x of all samples; 0 for CodebookDecode
  int64_t sequence;      // rows of x of one sample; M where there is no batch of samples
  int64_t out_features;  // O
  int64_t row_groups;    // R
};

// Parameters of every kernel, in order: the op's inputs, 32-bit integers, the output.
struct Kernel {
  const char* name;  // of the function in the images
  int32_t tactic;    // positive; stays the same when kernels are added or removed
  OpKind op;
  Element element;
  int32_t codebook_size, sub_vector_len, group_order, assignment_layout;
  Activation activation;
  int32_t rows_per_block;   // rows of x for one block in x; 0 where the grid does not depend on M
  int32_t steps_per_block;  // there: steps of 64 columns for one block in x
  int32_t block_n;          // rows of the weight for one block in y
  uint32_t threads, shared_bytes;
  int32_t num_scalars;
  Scalar scalars[kMaxScalars];
  const Image* images;
  size_t num_images;
};

extern const Kernel kKernels[];
extern const size_t kNumKernels;
// Changes with any kernel, so that timings of older ones are not taken for theirs.
extern const char* const kKernelsId;

const Kernel* find_kernel(int32_t tactic);  // nullptr if there is none
const Kernel* first_kernel(const Problem& problem);
bool takes(const Kernel& kernel, const Problem& problem);
Grid grid_for(const Kernel& kernel, const Problem& problem);
int32_t scalar_value(Scalar scalar, const Problem& problem);

}  // namespace vq4dit
