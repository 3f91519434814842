// Walks the C++ plugin library through the calls that TensorRT makes, with no TensorRT library and
// no GPU: only headers. Linked with the plugin's own objects, so that the kernel table is seen too.
// Prints one line per observation for test_tensorrt_library.py.
#include <NvInfer.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernel_table.h"

using namespace nvinfer1;

extern "C" IPluginCreatorInterface* const* getCreators(int32_t& count);
extern "C" void setLoggerFinder(ILoggerFinder* finder);

namespace {

class Dimension : public IDimensionExpr, public apiv::VDimensionExpr {
 public:
  Dimension(int64_t value, bool constant) : value_(value), constant_(constant) {
    IDimensionExpr::mImpl = this;
  }
  bool isConstant() const override { return constant_; }
  int64_t getConstantValue() const override { return value_; }
  bool isSizeTensor() const override { return false; }

 private:
  int64_t value_;
  bool constant_;
};

// Only constants are asked for: the plugin's output sizes are its inputs' sizes.
class Builder : public IExprBuilder, public apiv::VExprBuilder {
 public:
  Builder() { IExprBuilder::mImpl = this; }
  IDimensionExpr const* make(int64_t value, bool constant) {
    made_.emplace_back(new Dimension(value, constant));
    return made_.back().get();
  }
  IDimensionExpr const* constant(int64_t value) override { return make(value, true); }
  IDimensionExpr const* operation(DimensionOperation, IDimensionExpr const&,
                                  IDimensionExpr const&) override {
    return nullptr;
  }
  IDimensionExpr const* declareSizeTensor(int32_t, IDimensionExpr const&,
                                          IDimensionExpr const&) override {
    return nullptr;
  }

 private:
  std::vector<std::unique_ptr<Dimension>> made_;
};

class Logger : public ILogger, public ILoggerFinder {
 public:
  void log(Severity, AsciiChar const* message) noexcept override {
    std::printf("log %s\n", message);
  }
  ILogger* findLogger() override { return this; }
};

struct Attributes {
  int32_t in_features, codebook_size, sub_vector_len, group_order, assignment_layout;
  const char* activation;
};

// Fields as the ONNX parser makes them: INT32, and CHAR with the closing NUL counted.
std::vector<PluginField> parser_fields(const Attributes& a) {
  return {{"in_features", &a.in_features, PluginFieldType::kINT32, 1},
          {"codebook_size", &a.codebook_size, PluginFieldType::kINT32, 1},
          {"sub_vector_len", &a.sub_vector_len, PluginFieldType::kINT32, 1},
          {"group_order", &a.group_order, PluginFieldType::kINT32, 1},
          {"assignment_layout", &a.assignment_layout, PluginFieldType::kINT32, 1},
          {"activation", a.activation, PluginFieldType::kCHAR,
           static_cast<int32_t>(std::strlen(a.activation) + 1)}};
}

IPluginCreatorV3One* creator(int32_t op) {
  int32_t count = 0;
  return static_cast<IPluginCreatorV3One*>(getCreators(count)[op]);
}

using Plugin = std::unique_ptr<IPluginV3>;  // TensorRT owns what creators make

Plugin create(int32_t op, const Attributes& attributes) {
  std::vector<PluginField> fields = parser_fields(attributes);
  PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
  return Plugin(creator(op)->createPlugin("node", &collection, TensorRTPhase::kBUILD));
}

IPluginV3OneBuild* build_part(const Plugin& plugin) {
  return static_cast<IPluginV3OneBuild*>(
      plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
}

IPluginV3OneRuntime* runtime_part(const Plugin& plugin) {
  return static_cast<IPluginV3OneRuntime*>(
      plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

constexpr int32_t kBatch = 3, kTokens = 16, kOut = 192, kSteps = 2, kStepBytes = 16;
const Attributes kTwoBits{128, 256, 4, 1, 2, "none"};  // (2, O, 16) bytes in layout mma_lanes

std::vector<std::vector<int64_t>> shapes(int32_t op) {
  const std::vector<int64_t> codebook{1, 256, 4}, packed{kSteps, kOut, kStepBytes};
  if (op == 2) return {codebook, packed};
  std::vector<std::vector<int64_t>> all{{kBatch, kTokens, 128}, codebook, packed, {kOut}};
  if (op == 1) all.insert(all.end(), {{kBatch, kOut}, {kBatch, kTokens, kOut}});
  return all;
}

Dims dims_of(const std::vector<int64_t>& sizes) {
  Dims dims{};
  dims.nbDims = static_cast<int32_t>(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) dims.d[i] = sizes[i];
  return dims;
}

// Types of all inputs and the output of an op, by the schema.
std::vector<DataType> types(int32_t op, DataType element) {
  if (op == 2) return {element, DataType::kINT8, element};
  std::vector<DataType> all{element, element, DataType::kINT8, element};
  if (op == 1) all.insert(all.end(), {element, DataType::kFLOAT});
  all.push_back(op == 1 ? DataType::kFLOAT : element);
  return all;
}

std::vector<PluginTensorDesc> described(int32_t op, DataType element) {
  std::vector<std::vector<int64_t>> sizes = shapes(op);
  sizes.push_back(op == 2 ? std::vector<int64_t>{kOut, 128}
                          : std::vector<int64_t>{kBatch, kTokens, kOut});
  const std::vector<DataType> wanted = types(op, element);
  std::vector<PluginTensorDesc> tensors(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    tensors[i].dims = dims_of(sizes[i]);
    tensors[i].type = wanted[i];
    tensors[i].format = TensorFormat::kLINEAR;
  }
  return tensors;
}

std::vector<DynamicPluginTensorDesc> dynamic(const std::vector<PluginTensorDesc>& tensors,
                                             bool fill_opt) {
  std::vector<DynamicPluginTensorDesc> all(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    all[i].desc = tensors[i];
    all[i].min = all[i].max = tensors[i].dims;
    if (fill_opt) all[i].opt = tensors[i].dims;
  }
  return all;
}

void show_creators() {
  int32_t count = 0;
  IPluginCreatorInterface* const* all = getCreators(count);
  for (int32_t i = 0; i < count; ++i) {
    auto* one = static_cast<IPluginCreatorV3One*>(all[i]);
    std::printf("creator %s %s %s %d %s\n", one->getPluginNamespace(), one->getPluginName(),
                one->getPluginVersion(), one->getFieldNames()->nbFields,
                all[i]->getInterfaceInfo().kind);
  }
}

void show_shapes(int32_t op) {
  Builder builder;
  std::vector<DimsExprs> inputs;
  for (const std::vector<int64_t>& sizes : shapes(op)) {
    DimsExprs dims{};
    dims.nbDims = static_cast<int32_t>(sizes.size());
    for (size_t i = 0; i < sizes.size(); ++i)
      dims.d[i] = builder.make(sizes[i], !(op < 2 && inputs.empty() && i == 0));
    inputs.push_back(dims);
  }
  DimsExprs output{};
  const Plugin plugin = create(op, kTwoBits);
  IPluginV3OneBuild* build = build_part(plugin);
  const int32_t status = build->getOutputShapes(inputs.data(), static_cast<int32_t>(inputs.size()),
                                                nullptr, 0, &output, 1, builder);
  std::printf("shape %d %d", op, status);
  for (int32_t i = 0; i < output.nbDims; ++i)
    std::printf(" %lld%s", static_cast<long long>(output.d[i]->getConstantValue()),
                output.d[i]->isConstant() ? "" : "?");
  std::printf("\n");
}

// Every combination of types, position by position as the builder asks.
void show_formats(int32_t op) {
  constexpr DataType kTypes[] = {DataType::kFLOAT, DataType::kHALF, DataType::kINT8,
                                 DataType::kINT32, DataType::kBF16};
  const Plugin plugin = create(op, kTwoBits);
  IPluginV3OneBuild* build = build_part(plugin);
  const auto reference = dynamic(described(op, DataType::kHALF), true);
  std::vector<std::vector<DataType>> open{{}};
  const int32_t inputs = static_cast<int32_t>(reference.size()) - 1;
  for (int32_t position = 0; position <= inputs; ++position) {
    std::vector<std::vector<DataType>> next;
    for (const auto& chosen : open) {
      for (DataType type : kTypes) {
        auto tensors = reference;
        for (int32_t i = 0; i < position; ++i) tensors[i].desc.type = chosen[i];
        tensors[position].desc.type = type;
        auto strided = tensors;
        strided[position].desc.format = TensorFormat::kCHW32;
        if (build->supportsFormatCombination(position, strided.data(), inputs, 1))
          std::printf("formats %d takes CHW32\n", op);
        if (!build->supportsFormatCombination(position, tensors.data(), inputs, 1)) continue;
        next.push_back(chosen);
        next.back().push_back(type);
      }
    }
    open = next;
  }
  for (const auto& chosen : open) {
    std::printf("formats %d", op);
    for (DataType type : chosen) std::printf(" %d", static_cast<int>(type));
    DataType output{};
    const int32_t status = build->getOutputDataTypes(&output, 1, chosen.data(), inputs);
    std::printf(" out %d %d\n", status, static_cast<int>(output));
  }
  DataType output{}, wide[6] = {DataType::kFLOAT, DataType::kFLOAT, DataType::kINT8,
                                DataType::kFLOAT, DataType::kFLOAT, DataType::kFLOAT};
  std::printf("float32 %d %d\n", op, build->getOutputDataTypes(&output, 1, wide, inputs));
}

// Tactics with and without an `opt` shape (TensorRT 10.3 leaves it empty), then one launch each.
void show_tactics(int32_t op, DataType element) {
  const auto tensors = described(op, element);
  const int32_t inputs = static_cast<int32_t>(tensors.size()) - 1;
  const Plugin plugin = create(op, kTwoBits);
  std::vector<int32_t> tactics;
  for (bool fill_opt : {false, true}) {
    const auto in = dynamic(tensors, fill_opt);
    const int32_t status = build_part(plugin)->configurePlugin(in.data(), inputs, &in[inputs], 1);
    const int32_t count = build_part(plugin)->getNbTactics();
    tactics.resize(count);
    std::printf("tactics %d %d %d %d %d\n", op, static_cast<int>(element), status, count,
                build_part(plugin)->getValidTactics(tactics.data(), count));
  }
  std::printf("timing-cache %s\n", build_part(plugin)->getTimingCacheID());
  const void* pointers[6];
  for (size_t i = 0; i < 6; ++i) pointers[i] = reinterpret_cast<void*>(0x1000 * (i + 1));
  void* output = reinterpret_cast<void*>(0x9000);
  tactics.push_back(0);  // what an engine without tactics has
  for (int32_t tactic : tactics) {
    const Plugin clone(runtime_part(plugin)->attachToContext(nullptr));
    IPluginV3OneRuntime* runtime = runtime_part(clone);
    const int32_t set = runtime->setTactic(tactic);
    const int32_t shape = runtime->onShapeChange(tensors.data(), inputs, &tensors[inputs], 1);
    const int32_t status =
        runtime->enqueue(tensors.data(), &tensors[inputs], pointers, &output, nullptr, nullptr);
    const vq4dit::Kernel* kernel = tactic ? vq4dit::find_kernel(tactic) : nullptr;
    std::printf("enqueue %d %d %s %d %d %d\n", op, static_cast<int>(element),
                kernel ? kernel->name : "default", set, shape, status);
  }
  std::printf("unknown-tactic %d\n", runtime_part(plugin)->setTactic(7));
}

void show_round_trip(int32_t op) {
  Attributes attributes = kTwoBits;
  if (op == 0) attributes.activation = "gelu_tanh";
  const Plugin plugin = create(op, attributes);
  PluginFieldCollection const* stored = runtime_part(plugin)->getFieldsToSerialize();
  const Plugin again(creator(op)->createPlugin("node", stored, TensorRTPhase::kRUNTIME));
  PluginFieldCollection const* back = runtime_part(again)->getFieldsToSerialize();
  bool same = stored->nbFields == back->nbFields;
  for (int32_t i = 0; same && i < stored->nbFields; ++i) {
    const PluginField &a = stored->fields[i], &b = back->fields[i];
    const size_t size = a.type == PluginFieldType::kCHAR ? a.length : 4 * a.length;
    same = !std::strcmp(a.name, b.name) && a.length == b.length &&
           !std::memcmp(a.data, b.data, size) && a.data != b.data;
  }
  std::printf("round-trip %d %d %d\n", op, stored->nbFields, same);
}

void show_refusals() {
  Attributes bad[] = {kTwoBits, kTwoBits, kTwoBits, kTwoBits, kTwoBits};
  bad[0].activation = "relu";
  bad[1].codebook_size = 257;
  bad[2].sub_vector_len = 5;
  bad[3].in_features = 120;
  bad[4].group_order = 3;
  for (const Attributes& attributes : bad)
    std::printf("refused %d\n", create(0, attributes) == nullptr);
  std::vector<PluginField> fields = parser_fields(kTwoBits);
  PluginFieldCollection few{2, fields.data()};
  std::printf("refused %d\n",
              creator(0)->createPlugin("node", &few, TensorRTPhase::kBUILD) == nullptr);
  std::printf("refused %d\n",
              creator(0)->createPlugin("node", nullptr, TensorRTPhase::kBUILD) == nullptr);
}

}  // namespace

int main() {
  Logger logger;
  setLoggerFinder(&logger);
  show_creators();
  for (int32_t op = 0; op < 3; ++op) {
    show_shapes(op);
    show_formats(op);
    show_round_trip(op);
    for (DataType element : {DataType::kHALF, DataType::kBF16}) show_tactics(op, element);
  }
  show_refusals();
  return 0;
}
