// Callbacks of the ops: read the attributes, check every input, run the kernels.
//
// The ops and their contract are defined in plugins/schema.py; here T is float32 only.
#include "ops.h"

#include "ort_helpers.h"
#include "shape_inference.h"

namespace vq4dit {
namespace {

using ort::Api;
using ort::Tensor;

const Op& op_of(const ort::CustomOp* op) { return *reinterpret_cast<const Op*>(op); }

const char* name_of(OpKind kind) {
  switch (kind) {
    case OpKind::kGemm: return "CodebookGemm";
    case OpKind::kGemmResidual: return "CodebookGemmResidual";
    default: return "CodebookDecode";
  }
}

int enum_attribute(const Api& api, const ort::KernelInfo* info, const char* name, int last) {
  const int64_t value = ort::int_attribute(api, info, name);
  if (value < 0 || value > last) {
    throw Error(std::string(name) + " is " + std::to_string(value) + ", needed 0.." +
                std::to_string(last));
  }
  return static_cast<int>(value);
}

Activation activation_attribute(const Api& api, const ort::KernelInfo* info) {
  const std::string name = ort::string_attribute(api, info, "activation");
  if (name == "none") return Activation::kNone;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "silu") return Activation::kSilu;
  throw Error("activation is '" + name + "', needed none, gelu_tanh or silu");
}

void check_plugin_attribute(const Api& api, const ort::KernelInfo* info, const char* name,
                            const char* needed) {
  const std::string found = ort::string_attribute(api, info, name);
  if (found != needed) {
    throw Error(std::string(name) + " is '" + found + "', needed '" + needed + "'");
  }
}

LayerSpec spec_from_attributes(const Api& api, const ort::KernelInfo* info, OpKind kind) {
  LayerSpec spec;
  spec.in_features = ort::int_attribute(api, info, "in_features");
  spec.codebook_size = ort::int_attribute(api, info, "codebook_size");
  spec.sub_vector_len = ort::int_attribute(api, info, "sub_vector_len");
  spec.group_order = static_cast<GroupOrder>(enum_attribute(api, info, "group_order", 2));
  spec.assignment_layout =
      static_cast<AssignmentLayout>(enum_attribute(api, info, "assignment_layout", 1));
  if (kind == OpKind::kGemm) spec.activation = activation_attribute(api, info);
  check_plugin_attribute(api, info, "plugin_namespace", "vq4dit");
  check_plugin_attribute(api, info, "plugin_version", "1");
  spec.check();
  return spec;
}

void check_shape(const char* name, const Tensor& tensor, const std::vector<int64_t>& needed) {
  if (tensor.shape != needed) {
    throw Error(std::string(name) + " has shape " + shape_text(tensor.shape) + ", needed " +
                shape_text(needed));
  }
}

// R of a codebook of this layer; Error where its shape does not fit.
int64_t row_groups_from(const LayerSpec& spec, const Tensor& codebook, int64_t out_features) {
  const auto& shape = codebook.shape;
  if (shape.size() != 3 || shape[0] < 1 || shape[1] != spec.codebook_size ||
      shape[2] != spec.sub_vector_len) {
    throw Error("codebook has shape " + shape_text(shape) + ", needed (R, " +
                std::to_string(spec.codebook_size) + ", " + std::to_string(spec.sub_vector_len) +
                ")");
  }
  if (out_features % shape[0] != 0) {
    throw Error("out_features " + std::to_string(out_features) + " is not a multiple of R = " +
                std::to_string(shape[0]));
  }
  return shape[0];
}

// A node: its attributes, and what could be prepared from constant inputs.
class Kernel {
 public:
  Kernel(const Op& op, const void* table, const ort::KernelInfo* info)
      : op_(op), api_(table), name_(ort::node_name(api_, info)) {
    spec_ = spec_from_attributes(api_, info, op.kind);
    places_ = spec_.place_of_column();
    prepare(info);
  }

  // "CodebookGemm node 'blocks.0.mlp.fc1'"
  static std::string where(const Op& op, const std::string& name) {
    return std::string(name_of(op.kind)) + " node '" + name + "'";
  }

  const Api& api() const { return api_; }
  std::string where() const { return where(op_, name_); }

  void compute(ort::KernelContext* context) {
    if (op_.kind == OpKind::kDecode) return compute_decode(context);
    compute_gemm(context);
  }

 private:
  void prepare(const ort::KernelInfo* info);
  Tensor input(ort::KernelContext* context, size_t index) const;
  float* output(ort::KernelContext* context, const std::vector<int64_t>& shape) const;
  void compute_gemm(ort::KernelContext* context);
  void compute_decode(ort::KernelContext* context);
  void check_indices(const Tensor& assignments, int64_t out_features) const {
    if (!assignments_checked_) check_assignments(spec_, assignments.bytes(), out_features);
  }

  const Op& op_;
  Api api_;
  std::string name_;
  LayerSpec spec_;
  std::vector<int32_t> places_;
  bool assignments_checked_ = false;
  bool codebook_prepared_ = false;
  QuantizedCodebook quantized_;
  Int8Codebook int8_;
};

// Constant inputs are checked and, in fast mode, the codebook (a few KB) quantized once. The
// assignments themselves are never copied.
void Kernel::prepare(const ort::KernelInfo* info) {
  int constant = 0;
  const ort::Value* value = nullptr;
  ort::check(api_, api_.KernelInfoGetConstantInput_tensor(info, assignments_input(op_.kind),
                                                          &constant, &value));
  int64_t out_features = 0;
  if (constant) {
    const Tensor assignments = ort::tensor_of(api_, value);
    out_features = spec_.out_features_from(assignments.shape);
    check_assignments(spec_, assignments.bytes(), out_features);
    assignments_checked_ = true;
  }
  ort::check(api_, api_.KernelInfoGetConstantInput_tensor(info, codebook_input(op_.kind),
                                                          &constant, &value));
  if (!constant) return;
  const Tensor codebook = ort::tensor_of(api_, value);
  const int64_t row_groups = row_groups_from(spec_, codebook, out_features);
  if (op_.kind == OpKind::kDecode || op_.accuracy == Accuracy::kExact) return;
  quantized_ = quantize_codebook(spec_, codebook.floats(), row_groups);
  if (op_.accuracy == Accuracy::kInt8) {
    int8_ = int8_codebook(spec_, codebook.floats(), row_groups);
  }
  codebook_prepared_ = true;
}

Tensor Kernel::input(ort::KernelContext* context, size_t index) const {
  const ort::Value* value = nullptr;
  ort::check(api_, api_.KernelContext_GetInput(context, index, &value));
  if (!value) throw Error("input " + std::to_string(index) + " is missing; all are required");
  const Tensor tensor = ort::tensor_of(api_, value);
  const bool bytes = index == assignments_input(op_.kind);
  if (tensor.type != (bytes ? ort::kInt8 : ort::kFloat)) {
    throw Error("input " + std::to_string(index) + " has ONNX element type " +
                std::to_string(tensor.type) + ", needed " + (bytes ? "int8" : "float32"));
  }
  return tensor;
}

float* Kernel::output(ort::KernelContext* context, const std::vector<int64_t>& shape) const {
  ort::Value* value = nullptr;
  ort::check(api_, api_.KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &value));
  void* data = nullptr;
  ort::check(api_, api_.GetTensorMutableData(value, &data));
  return static_cast<float*>(data);
}

// What ONNX Runtime's thread pool needs to run our tasks.
struct Pool {
  const Api& api;
  const ort::KernelContext* context;
};

void parallel_for(void* pool_pointer, void (*task)(void*, size_t), size_t total, void* user_data) {
  const Pool& pool = *static_cast<const Pool*>(pool_pointer);
  ort::check(pool.api,
             pool.api.KernelContext_ParallelFor(pool.context, task, total, 0, user_data));
}

void Kernel::compute_gemm(ort::KernelContext* context) {
  const Tensor x = input(context, kX);
  const Tensor codebook = input(context, kCodebook);
  const Tensor assignments = input(context, kAssignments);
  const Tensor bias = input(context, kBias);
  GemmCall call = {};
  call.spec = &spec_;
  call.place_of_column = places_.data();
  call.out_features = spec_.out_features_from(assignments.shape);
  call.row_groups = row_groups_from(spec_, codebook, call.out_features);
  if (x.shape.empty() || x.shape.back() != spec_.in_features) {
    throw Error("x has shape " + shape_text(x.shape) + ", needed (..., " +
                std::to_string(spec_.in_features) + ")");
  }
  check_shape("bias", bias, {call.out_features});
  check_indices(assignments, call.out_features);
  std::vector<int64_t> shape = x.shape;
  shape.back() = call.out_features;
  if (op_.kind == OpKind::kGemmResidual) {
    const Tensor gate = input(context, kGate);
    const Tensor residual = input(context, kResidual);
    if (x.shape.size() != 3) {
      throw Error("x has shape " + shape_text(x.shape) + ", needed (B, S, " +
                  std::to_string(spec_.in_features) + ")");
    }
    check_shape("gate", gate, {x.shape[0], call.out_features});
    check_shape("residual", residual, shape);
    call.gate = gate.floats();
    call.residual = residual.floats();
    call.rows_per_gate = x.shape[1];
  }
  call.num_rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) call.num_rows *= shape[i];
  call.x = x.floats();
  call.codebook = codebook.floats();
  call.assignments = assignments.bytes();
  call.bias = bias.floats();
  // One row per sample, as for adaLN, keeps the fast mode: little work, and all tokens feel it.
  const bool int8 = op_.accuracy == Accuracy::kInt8 && x.shape.size() > 2;
  const bool fast = op_.accuracy == Accuracy::kFast || (op_.accuracy == Accuracy::kInt8 && !int8);
  QuantizedCodebook quantized_now;
  Int8Codebook int8_now;
  if (!codebook_prepared_) {
    if (fast) quantized_now = quantize_codebook(spec_, codebook.floats(), call.row_groups);
    if (int8) int8_now = int8_codebook(spec_, codebook.floats(), call.row_groups);
  }
  call.quantized = codebook_prepared_ ? &quantized_ : &quantized_now;
  call.int8 = codebook_prepared_ ? &int8_ : &int8_now;
  call.y = output(context, shape);
  Pool pool{api_, context};
  if (int8) return codebook_gemm_int8(call, *op_.kernels, parallel_for, &pool);
  codebook_gemm(call, fast ? Accuracy::kFast : Accuracy::kExact, *op_.kernels, parallel_for, &pool);
}

void Kernel::compute_decode(ort::KernelContext* context) {
  const Tensor codebook = input(context, kDecodeCodebook);
  const Tensor assignments = input(context, kDecodeAssignments);
  const int64_t out_features = spec_.out_features_from(assignments.shape);
  const int64_t row_groups = row_groups_from(spec_, codebook, out_features);
  check_indices(assignments, out_features);
  float* weight = output(context, {out_features, spec_.in_features});
  constexpr int64_t kRowsPerTask = 64;
  const auto task = [&](size_t index) {
    const int64_t begin = static_cast<int64_t>(index) * kRowsPerTask;
    const int64_t end = begin + kRowsPerTask < out_features ? begin + kRowsPerTask : out_features;
    decode_rows(spec_, codebook.floats(), row_groups, assignments.bytes(), out_features, begin,
                end, weight);
  };
  using Task = decltype(task);
  Pool pool{api_, context};
  parallel_for(
      &pool, [](void* data, size_t index) { (*static_cast<Task*>(data))(index); },
      static_cast<size_t>((out_features + kRowsPerTask - 1) / kRowsPerTask),
      const_cast<void*>(static_cast<const void*>(&task)));
}

// ---- the ABI's callbacks -----------------------------------------------------------------------

ort::Status* create_kernel(const ort::CustomOp* op, const void* table, const ort::KernelInfo* info,
                           void** kernel) {
  const Api api(table);
  std::string where = name_of(op_of(op).kind);
  return ort::guarded(api, where, [&] {
    const std::string name = ort::node_name(api, info);
    try {
      *kernel = new Kernel(op_of(op), table, info);
    } catch (const Error& error) {
      throw Error("node '" + name + "': " + error.what());
    }
  });
}

ort::Status* compute(void* kernel_pointer, ort::KernelContext* context) {
  Kernel& kernel = *static_cast<Kernel*>(kernel_pointer);
  return ort::guarded(kernel.api(), kernel.where(), [&] { kernel.compute(context); });
}

}  // namespace

Op make_op(OpKind kind, Accuracy accuracy, const Kernels& kernels, const void* api_table) {
  Op op = {};
  op.api_table = api_table;
  op.kind = kind;
  op.accuracy = accuracy;
  op.kernels = &kernels;
  ort::CustomOp& abi = op.abi;
  abi.version = ort::kApiVersion;
  abi.GetName = [](const ort::CustomOp* self) { return name_of(op_of(self).kind); };
  abi.GetExecutionProviderType = [](const ort::CustomOp*) -> const char* { return nullptr; };
  abi.GetInputTypeCount = [](const ort::CustomOp* self) { return num_inputs(op_of(self).kind); };
  abi.GetInputType = [](const ort::CustomOp* self, size_t index) {
    return index == assignments_input(op_of(self).kind) ? ort::kInt8 : ort::kFloat;
  };
  abi.GetOutputTypeCount = [](const ort::CustomOp*) { return size_t{1}; };
  abi.GetOutputType = [](const ort::CustomOp*, size_t) { return ort::kFloat; };
  abi.GetInputCharacteristic = [](const ort::CustomOp*, size_t) { return ort::kRequired; };
  abi.GetOutputCharacteristic = [](const ort::CustomOp*, size_t) { return ort::kRequired; };
  abi.GetInputMemoryType = [](const ort::CustomOp*, size_t) { return ort::kMemoryDefault; };
  abi.GetVariadicInputMinArity = [](const ort::CustomOp*) { return 0; };
  abi.GetVariadicInputHomogeneity = [](const ort::CustomOp*) { return 0; };
  abi.GetVariadicOutputMinArity = [](const ort::CustomOp*) { return 0; };
  abi.GetVariadicOutputHomogeneity = [](const ort::CustomOp*) { return 0; };
  abi.CreateKernelV2 = create_kernel;
  abi.KernelComputeV2 = compute;
  abi.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  abi.InferOutputShapeFn = [](const ort::CustomOp* self, ort::ShapeContext* context) {
    const Api api(op_of(self).api_table);  // the one callback that is not given the table
    const OpKind kind = op_of(self).kind;
    return ort::guarded(api, name_of(kind), [&] { infer_shape(api, kind, context); });
  };
  abi.GetStartVersion = [](const ort::CustomOp*) { return 1; };
  abi.GetEndVersion = [](const ort::CustomOp*) { return 1; };
  return op;
}

}  // namespace vq4dit
