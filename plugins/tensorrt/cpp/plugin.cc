#include "plugin.h"

#include <array>
#include <cstdio>

namespace vq4dit {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

constexpr int32_t kSuccess = 0;
constexpr int32_t kFailure = 1;
constexpr size_t kMaxInputs = 6;

// Inputs in the schema's order.
enum GemmInput : int32_t { kX, kCodebook, kAssignments, kBias, kGate, kResidual };

nvinfer1::ILoggerFinder*& logger_finder() {
  static nvinfer1::ILoggerFinder* finder = nullptr;
  return finder;
}

// Assignments have their out_features on this axis (plugins/layout.py, AssignmentLayout).
int32_t out_features_axis(const OpAttributes& attributes) {
  return attributes.assignment_layout == 0 ? 0 : 1;
}

// Element type of one input or output, given that of x (of the codebook for CodebookDecode).
DataType required_type(OpKind op, int32_t position, DataType element) {
  if (position == assignments_input(op)) return DataType::kINT8;
  const bool wide = op == OpKind::kGemmResidual && position >= kResidual;  // residual and output
  return wide ? DataType::kFLOAT : element;
}

bool read_element(DataType type, Element* element) {
  *element = type == DataType::kBF16 ? Element::kBfloat16 : Element::kHalf;
  return type == DataType::kHALF || type == DataType::kBF16;
}

// Sizes of one call from the inputs' dimensions. False where the ranks are not the schema's.
bool read_problem(OpKind op, const OpAttributes& attributes, DataType element,
                  const std::array<const Dims*, kMaxInputs>& dims, Problem* problem) {
  *problem = {};
  problem->op = op;
  problem->attributes = attributes;
  const Dims& codebook = *dims[codebook_input(op)];
  const Dims& assignments = *dims[assignments_input(op)];
  const int32_t axis = out_features_axis(attributes);
  if (!read_element(element, &problem->element)) return false;
  if (codebook.nbDims != 3 || assignments.nbDims != 2 + axis) return false;
  problem->row_groups = codebook.d[0];
  problem->out_features = assignments.d[axis];
  if (op == OpKind::kDecode) return true;
  const Dims& x = *dims[kX];
  if (x.nbDims < 1 || x.d[x.nbDims - 1] != attributes.in_features) return false;
  problem->rows = 1;
  for (int32_t i = 0; i + 1 < x.nbDims; ++i) problem->rows *= x.d[i];
  problem->sequence = x.nbDims == 3 ? x.d[1] : problem->rows;
  return op != OpKind::kGemmResidual || x.nbDims == 3;
}

bool read_problem(OpKind op, const OpAttributes& attributes, const PluginTensorDesc* in,
                  Problem* problem) {
  std::array<const Dims*, kMaxInputs> dims{};
  for (int32_t i = 0; i < num_inputs(op); ++i) dims[i] = &in[i].dims;
  return read_problem(op, attributes, in[0].type, dims, problem);
}

// TensorRT 10.3 leaves `opt` empty; `max` has been filled in every version.
bool read_largest_problem(OpKind op, const OpAttributes& attributes,
                          const DynamicPluginTensorDesc* in, Problem* problem) {
  std::array<const Dims*, kMaxInputs> dims{};
  for (int32_t i = 0; i < num_inputs(op); ++i)
    dims[i] = in[i].max.nbDims > 0 ? &in[i].max : &in[i].desc.dims;
  return read_problem(op, attributes, in[0].desc.type, dims, problem);
}

std::string sizes_text(const Problem& p) {
  const OpAttributes& a = p.attributes;
  return std::string(op_name(p.op)) + " with " + std::to_string(p.rows) + " rows, out_features " +
         std::to_string(p.out_features) + ", in_features " + std::to_string(a.in_features) +
         ", codebook_size " + std::to_string(a.codebook_size) + ", sub_vector_len " +
         std::to_string(a.sub_vector_len) + ", group_order " + std::to_string(a.group_order) +
         ", assignment_layout " + std::to_string(a.assignment_layout);
}

std::string run(const Kernel& kernel, const Problem& problem, void const* const* inputs,
                void* const* outputs, cudaStream_t stream) {
  std::array<void const*, kMaxInputs> pointers{};
  std::array<int32_t, kMaxScalars> scalars{};
  std::array<void*, kMaxInputs + kMaxScalars + 1> arguments{};
  size_t count = 0;
  for (int32_t i = 0; i < num_inputs(problem.op); ++i) {
    pointers[i] = inputs[i];
    arguments[count++] = &pointers[i];
  }
  for (int32_t i = 0; i < kernel.num_scalars; ++i) {
    scalars[i] = scalar_value(kernel.scalars[i], problem);
    arguments[count++] = &scalars[i];
  }
  void* output = outputs[0];
  arguments[count] = &output;
  return launch(kernel.images, kernel.num_images, kernel.name, grid_for(kernel, problem),
                arguments.data(), stream);
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) { logger_finder() = finder; }

void log_error(const std::string& message) {
  const std::string text = "vq4dit: " + message;
  nvinfer1::ILogger* logger = logger_finder() ? logger_finder()->findLogger() : nullptr;
  if (logger)
    logger->log(nvinfer1::ILogger::Severity::kERROR, text.c_str());
  else
    std::fprintf(stderr, "%s\n", text.c_str());
}

CodebookPlugin::CodebookPlugin(OpKind op, const OpAttributes& attributes)
    : op_(op), attributes_(attributes), fields_(op, attributes), timing_cache_id_(kKernelsId) {
  for (int32_t value : {attributes.in_features, attributes.codebook_size,
                        attributes.sub_vector_len, attributes.group_order,
                        attributes.assignment_layout, static_cast<int32_t>(attributes.activation)})
    timing_cache_id_ += '_' + std::to_string(value);
}

CodebookPlugin::CodebookPlugin(const CodebookPlugin& other)
    : CodebookPlugin(other.op_, other.attributes_) {
  tactics_ = other.tactics_;
  tactic_ = other.tactic_;
}

nvinfer1::IPluginCapability* CodebookPlugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* CodebookPlugin::clone() noexcept { return new CodebookPlugin(*this); }

nvinfer1::AsciiChar const* CodebookPlugin::getPluginName() const noexcept { return op_name(op_); }
nvinfer1::AsciiChar const* CodebookPlugin::getPluginVersion() const noexcept { return kVersion; }
nvinfer1::AsciiChar const* CodebookPlugin::getPluginNamespace() const noexcept {
  return kNamespace;
}

int32_t CodebookPlugin::getNbOutputs() const noexcept { return 1; }

int32_t CodebookPlugin::getOutputDataTypes(DataType* outputs, int32_t num_outputs,
                                           DataType const* inputs, int32_t count) const noexcept {
  Element element;
  if (num_outputs != 1 || count != num_inputs(op_)) {
    log_error(std::string(op_name(op_)) + " has " + std::to_string(count) + " inputs and " +
              std::to_string(num_outputs) + " outputs; needed " + std::to_string(num_inputs(op_)) +
              " and 1");
    return kFailure;
  }
  if (!read_element(inputs[0], &element)) {
    log_error(std::string(op_name(op_)) +
              ": the GPU kernels take float16 or bfloat16; export with --weights fp16 or bf16");
    return kFailure;
  }
  outputs[0] = required_type(op_, num_inputs(op_), inputs[0]);
  return kSuccess;
}

int32_t CodebookPlugin::getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t count,
                                        nvinfer1::DimsExprs const*, int32_t,
                                        nvinfer1::DimsExprs* outputs, int32_t,
                                        nvinfer1::IExprBuilder& builder) noexcept {
  if (count != num_inputs(op_)) return kFailure;
  const nvinfer1::DimsExprs& assignments = inputs[assignments_input(op_)];
  const int32_t axis = out_features_axis(attributes_);
  if (assignments.nbDims != 2 + axis) {
    log_error(std::string(op_name(op_)) + ": assignments have " +
              std::to_string(assignments.nbDims) + " axes, needed " + std::to_string(2 + axis));
    return kFailure;
  }
  if (op_ == OpKind::kDecode) {
    outputs[0].nbDims = 2;
    outputs[0].d[0] = assignments.d[axis];
    outputs[0].d[1] = builder.constant(attributes_.in_features);
    return kSuccess;
  }
  if (inputs[kX].nbDims < 1) return kFailure;
  outputs[0] = inputs[kX];
  outputs[0].d[outputs[0].nbDims - 1] = assignments.d[axis];
  return kSuccess;
}

bool CodebookPlugin::supportsFormatCombination(int32_t position,
                                               DynamicPluginTensorDesc const* in_out, int32_t,
                                               int32_t) noexcept {
  const PluginTensorDesc& tensor = in_out[position].desc;
  Element element;
  return tensor.format == nvinfer1::TensorFormat::kLINEAR &&
         read_element(in_out[0].desc.type, &element) &&
         tensor.type == required_type(op_, position, in_out[0].desc.type);
}

int32_t CodebookPlugin::configurePlugin(DynamicPluginTensorDesc const* in, int32_t count,
                                        DynamicPluginTensorDesc const*, int32_t) noexcept {
  Problem problem;
  tactics_.clear();
  if (count != num_inputs(op_) || !read_largest_problem(op_, attributes_, in, &problem)) {
    log_error(std::string(op_name(op_)) + ": an input's shape or type is not the schema's");
    return kFailure;
  }
  for (size_t i = 0; i < kNumKernels; ++i) {
    if (takes(kKernels[i], problem)) tactics_.push_back(kKernels[i].tactic);
  }
  if (!tactics_.empty()) return kSuccess;
  log_error("no GPU kernel takes " + sizes_text(problem) + "; export for --target tensorrt");
  return kFailure;
}

int32_t CodebookPlugin::getNbTactics() noexcept { return static_cast<int32_t>(tactics_.size()); }

int32_t CodebookPlugin::getValidTactics(int32_t* tactics, int32_t count) noexcept {
  if (count != getNbTactics()) return kFailure;
  for (int32_t i = 0; i < count; ++i) tactics[i] = tactics_[i];
  return kSuccess;
}

char const* CodebookPlugin::getTimingCacheID() noexcept { return timing_cache_id_.c_str(); }

int32_t CodebookPlugin::setTactic(int32_t tactic) noexcept {
  if (tactic != 0 && !find_kernel(tactic)) {
    log_error("the engine was built with a kernel (tactic " + std::to_string(tactic) +
              ") that this library does not have; build the engine again");
    return kFailure;
  }
  tactic_ = tactic;
  return kSuccess;
}

int32_t CodebookPlugin::onShapeChange(PluginTensorDesc const* in, int32_t count,
                                      PluginTensorDesc const*, int32_t) noexcept {
  Problem problem;
  const bool fits = count == num_inputs(op_) && read_problem(op_, attributes_, in, &problem);
  if (!fits) log_error(std::string(op_name(op_)) + ": an input's shape is not the schema's");
  return fits ? kSuccess : kFailure;
}

int32_t CodebookPlugin::enqueue(PluginTensorDesc const* in, PluginTensorDesc const*,
                                void const* const* inputs, void* const* outputs, void*,
                                cudaStream_t stream) noexcept {
  Problem problem;
  if (!read_problem(op_, attributes_, in, &problem)) return kFailure;
  if (op_ != OpKind::kDecode && problem.rows == 0) return kSuccess;
  const Kernel* kernel = tactic_ ? find_kernel(tactic_) : first_kernel(problem);
  std::string error;
  if (!kernel || !takes(*kernel, problem))
    error = "no GPU kernel takes " + sizes_text(problem);
  else
    error = run(*kernel, problem, inputs, outputs, stream);
  if (!error.empty()) log_error(error);
  return error.empty() ? kSuccess : kFailure;
}

nvinfer1::IPluginV3* CodebookPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return clone();
}

nvinfer1::PluginFieldCollection const* CodebookPlugin::getFieldsToSerialize() noexcept {
  return fields_.collection();
}

nvinfer1::IPluginV3* CodebookCreator::createPlugin(nvinfer1::AsciiChar const* name,
                                                   nvinfer1::PluginFieldCollection const* fields,
                                                   nvinfer1::TensorRTPhase) noexcept {
  OpAttributes attributes;
  const std::string problem = read_attributes(op_, fields, &attributes);
  if (problem.empty()) return new CodebookPlugin(op_, attributes);
  log_error(std::string(op_name(op_)) + " '" + (name ? name : "") + "': " + problem);
  return nullptr;
}

nvinfer1::PluginFieldCollection const* CodebookCreator::getFieldNames() noexcept {
  return fields_.collection();
}
nvinfer1::AsciiChar const* CodebookCreator::getPluginName() const noexcept { return op_name(op_); }
nvinfer1::AsciiChar const* CodebookCreator::getPluginVersion() const noexcept { return kVersion; }
nvinfer1::AsciiChar const* CodebookCreator::getPluginNamespace() const noexcept {
  return kNamespace;
}

}  // namespace vq4dit
