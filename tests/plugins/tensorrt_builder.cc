// Asks the ahead-of-time plugins what TensorRT's builder asks, through the same C++ interfaces:
// registry, creator, plugin, symbolic dimensions and arguments. A library for a Python process that
// has registered the plugins; its one function prints lines for test_tensorrt_qdp_abi.py.
#include <NvInfer.h>
#include <dlfcn.h>
#include <impl/NvInferPythonPlugin.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

using namespace nvinfer1;

namespace {

// A formula over the number of samples N.
class Dimension : public IDimensionExpr, public apiv::VDimensionExpr {
 public:
  Dimension(std::function<int64_t(int64_t)> formula, bool constant)
      : formula_(std::move(formula)), constant_(constant) {
    IDimensionExpr::mImpl = this;
  }
  bool isConstant() const override { return constant_; }
  int64_t getConstantValue() const override { return constant_ ? formula_(0) : INT64_MIN; }
  bool isSizeTensor() const override { return false; }
  int64_t at(int64_t samples) const { return formula_(samples); }
  static const Dimension& of(IDimensionExpr const& expression) {
    return static_cast<const Dimension&>(expression);
  }

 private:
  std::function<int64_t(int64_t)> formula_;
  bool constant_;
};

int64_t apply(DimensionOperation operation, int64_t a, int64_t b) {
  switch (operation) {
    case DimensionOperation::kSUM: return a + b;
    case DimensionOperation::kSUB: return a - b;
    case DimensionOperation::kPROD: return a * b;
    case DimensionOperation::kMAX: return a > b ? a : b;
    case DimensionOperation::kMIN: return a < b ? a : b;
    case DimensionOperation::kEQUAL: return a == b;
    case DimensionOperation::kLESS: return a < b;
    case DimensionOperation::kFLOOR_DIV: return a / b;
    case DimensionOperation::kCEIL_DIV: return (a + b - 1) / b;
  }
  return 0;
}

class Builder : public IExprBuilder, public apiv::VExprBuilder {
 public:
  Builder() { IExprBuilder::mImpl = this; }
  IDimensionExpr const* make(std::function<int64_t(int64_t)> formula, bool constant) {
    made_.emplace_back(new Dimension(std::move(formula), constant));
    return made_.back().get();
  }
  IDimensionExpr const* samples() {
    return make([](int64_t n) { return n; }, false);
  }
  IDimensionExpr const* constant(int64_t value) override {
    return make([value](int64_t) { return value; }, true);
  }
  IDimensionExpr const* operation(DimensionOperation op, IDimensionExpr const& first,
                                  IDimensionExpr const& second) override {
    const Dimension &a = Dimension::of(first), &b = Dimension::of(second);
    return make([op, &a, &b](int64_t n) { return apply(op, a.at(n), b.at(n)); },
                a.isConstant() && b.isConstant());
  }
  IDimensionExpr const* declareSizeTensor(int32_t, IDimensionExpr const&,
                                          IDimensionExpr const&) override {
    return nullptr;
  }

 private:
  std::vector<std::unique_ptr<Dimension>> made_;
};

// What is handed over must be a 32-bit integer; its expression is taken at once.
bool take(ISymExpr* given, const Dimension** target) {
  if (!given || given->getType() != PluginArgType::kINT) return false;
  if (given->getDataType() != PluginArgDataType::kINT32 || !given->getExpr()) return false;
  *target = &Dimension::of(*static_cast<IDimensionExpr*>(given->getExpr()));
  return true;
}

class LaunchParams : public IKernelLaunchParams, public IKernelLaunchParamsImpl {
 public:
  LaunchParams() { IKernelLaunchParams::mImpl = this; }
  const Dimension* values[7] = {};

  ISymExpr* getGridX() noexcept override { return nullptr; }
  bool setGridX(ISymExpr* e) noexcept override { return take(e, &values[0]); }
  ISymExpr* getGridY() noexcept override { return nullptr; }
  bool setGridY(ISymExpr* e) noexcept override { return take(e, &values[1]); }
  ISymExpr* getGridZ() noexcept override { return nullptr; }
  bool setGridZ(ISymExpr* e) noexcept override { return take(e, &values[2]); }
  ISymExpr* getBlockX() noexcept override { return nullptr; }
  bool setBlockX(ISymExpr* e) noexcept override { return take(e, &values[3]); }
  ISymExpr* getBlockY() noexcept override { return nullptr; }
  bool setBlockY(ISymExpr* e) noexcept override { return take(e, &values[4]); }
  ISymExpr* getBlockZ() noexcept override { return nullptr; }
  bool setBlockZ(ISymExpr* e) noexcept override { return take(e, &values[5]); }
  ISymExpr* getSharedMem() noexcept override { return nullptr; }
  bool setSharedMem(ISymExpr* e) noexcept override { return take(e, &values[6]); }
};

class Scalars : public ISymExprs, public ISymExprsImpl {
 public:
  Scalars() { ISymExprs::mImpl = this; }
  std::vector<const Dimension*> values;

  ISymExpr* getSymExpr(int32_t) const noexcept override { return nullptr; }
  bool setSymExpr(int32_t index, ISymExpr* expression) noexcept override {
    return index >= 0 && index < getNbSymExprs() && take(expression, &values[index]);
  }
  int32_t getNbSymExprs() const noexcept override { return static_cast<int32_t>(values.size()); }
  bool setNbSymExprs(int32_t count) noexcept override {
    values.assign(count, nullptr);
    return true;
  }
};

constexpr int64_t kSamples = -1;  // in a shape: the number of samples

struct Tensor {
  DataType type;
  std::vector<int64_t> sizes;
};

std::vector<Tensor> inputs_of(const std::string& op) {
  const DataType half = DataType::kHALF;
  const Tensor codebook{half, {1, 256, 4}}, packed{DataType::kINT8, {2, 192, 16}};
  if (op == "CodebookDecode") return {codebook, packed};
  std::vector<Tensor> all{{half, {kSamples, 16, 128}}, codebook, packed, {half, {192}}};
  if (op == "CodebookGemmResidual") {
    all.push_back({half, {kSamples, 192}});
    all.push_back({DataType::kFLOAT, {kSamples, 16, 192}});
  }
  return all;
}

DynamicPluginTensorDesc described(DataType type, const std::vector<int64_t>& sizes) {
  DynamicPluginTensorDesc tensor{};
  tensor.desc.type = type;
  tensor.desc.format = TensorFormat::kLINEAR;
  Dims* const dims[] = {&tensor.desc.dims, &tensor.min, &tensor.opt, &tensor.max};
  const int64_t samples[] = {-1, 1, 2, 8};
  for (size_t i = 0; i < 4; ++i) {
    dims[i]->nbDims = static_cast<int32_t>(sizes.size());
    for (size_t j = 0; j < sizes.size(); ++j)
      dims[i]->d[j] = sizes[j] == kSamples ? samples[i] : sizes[j];
  }
  return tensor;
}

IPluginV3* create(IPluginRegistry* registry, const char* op) {
  auto* creator =
      static_cast<IPluginCreatorV3Quick*>(registry->getCreator(op, "1", "vq4dit"));
  if (!creator) return nullptr;
  static const int32_t kValues[] = {128, 256, 4, 1, 2};
  static const char* const kNames[] = {"in_features", "codebook_size", "sub_vector_len",
                                       "group_order", "assignment_layout"};
  static const char kActivation[] = "gelu_tanh";  // the parser counts the closing NUL
  std::vector<PluginField> fields;
  for (int i = 0; i < 5; ++i)
    fields.emplace_back(kNames[i], &kValues[i], PluginFieldType::kINT32, 1);
  if (!std::strcmp(op, "CodebookGemm"))
    fields.emplace_back("activation", kActivation, PluginFieldType::kCHAR, sizeof kActivation);
  PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
  return creator->createPlugin(op, "vq4dit", &collection, TensorRTPhase::kBUILD,
                               QuickPluginCreationRequest::kSTRICT_AOT);
}

int show_launch(IPluginV3QuickAOTBuild* plugin, int32_t tactic, const std::vector<DimsExprs>& dims,
                const std::vector<DynamicPluginTensorDesc>& in_out, Builder& builder) {
  const int32_t count = static_cast<int32_t>(dims.size());
  LaunchParams launch;
  Scalars scalars;
  if (plugin->setTactic(tactic)) return 10;
  if (plugin->getLaunchParams(dims.data(), in_out.data(), count, 1, &launch, &scalars, builder))
    return 11;
  std::vector<PluginTensorDesc> tensors;
  for (const DynamicPluginTensorDesc& tensor : in_out) tensors.push_back(tensor.desc);
  const char* name = nullptr;
  char* kernel = nullptr;
  int32_t size = 0;
  if (plugin->getKernel(tensors.data(), count, &tensors[count], 1, &name, &kernel, &size))
    return 12;
  for (int64_t samples : {1, 7}) {
    std::printf("launch %d %s %lld", tactic, name, static_cast<long long>(samples));
    for (const Dimension* value : launch.values) {
      if (!value) return 13;
      std::printf(" %lld", static_cast<long long>(value->at(samples)));
    }
    for (const Dimension* value : scalars.values) {
      if (!value) return 14;
      std::printf(" %lld", static_cast<long long>(value->at(samples)));
    }
    std::printf("\n");
  }
  const std::string text(kernel, size);
  std::printf("kernel %d %d %d\n", tactic, text.find(std::string(".entry ") + name) != text.npos,
              text.find('\0') != text.npos);
  return 0;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int walk(const char* op) {
  void* library = dlopen("libnvinfer.so.11", RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return 1;
  auto* get_registry = reinterpret_cast<IPluginRegistry* (*)()>(dlsym(library, "getPluginRegistry"));
  if (!get_registry) return 2;
  IPluginV3* plugin = create(get_registry(), op);
  if (!plugin) return 3;
  auto* build = static_cast<IPluginV3QuickAOTBuild*>(
      plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
  std::printf("interface %s\n", build->getInterfaceInfo().kind);

  Builder builder;
  const std::vector<Tensor> inputs = inputs_of(op);
  std::vector<DataType> types;
  std::vector<int32_t> ranks;
  std::vector<DimsExprs> dims;
  std::vector<DynamicPluginTensorDesc> in_out;
  for (const Tensor& input : inputs) {
    types.push_back(input.type);
    ranks.push_back(static_cast<int32_t>(input.sizes.size()));
    DimsExprs expressions{};
    expressions.nbDims = ranks.back();
    for (size_t i = 0; i < input.sizes.size(); ++i)
      expressions.d[i] =
          input.sizes[i] == kSamples ? builder.samples() : builder.constant(input.sizes[i]);
    dims.push_back(expressions);
    in_out.push_back(described(input.type, input.sizes));
  }
  const int32_t count = static_cast<int32_t>(inputs.size());
  DataType output{};
  if (build->getOutputDataTypes(&output, 1, types.data(), ranks.data(), count)) return 4;
  DimsExprs shape{};
  if (build->getOutputShapes(dims.data(), count, nullptr, 0, &shape, 1, builder)) return 5;
  std::printf("output %d", static_cast<int>(output));
  std::vector<int64_t> sizes;
  for (int32_t i = 0; i < shape.nbDims; ++i) {
    const Dimension& size = Dimension::of(*shape.d[i]);
    std::printf(" %lld", static_cast<long long>(size.at(7)));
    sizes.push_back(size.isConstant() ? size.at(7) : kSamples);
  }
  std::printf("\n");
  in_out.push_back(described(output, sizes));
  const int32_t found = build->getNbSupportedFormatCombinations(in_out.data(), count, 1);
  std::vector<PluginTensorDesc> combinations(found * (count + 1));
  if (build->getSupportedFormatCombinations(in_out.data(), count, 1, combinations.data(), found))
    return 6;
  std::printf("combinations %d", found);
  for (const PluginTensorDesc& tensor : combinations)
    std::printf(" %d", static_cast<int>(tensor.type));
  std::printf("\n");
  if (build->configurePlugin(in_out.data(), count, &in_out[count], 1)) return 7;
  std::vector<int32_t> tactics(build->getNbTactics());
  if (build->getValidTactics(tactics.data(), static_cast<int32_t>(tactics.size()))) return 8;
  for (int32_t tactic : tactics) {
    const int status = show_launch(build, tactic, dims, in_out, builder);
    if (status) return status;
  }
  std::fflush(stdout);
  return 0;
}

// A float32 node: the status of the first question that is refused.
extern "C" __attribute__((visibility("default"))) int refuse(const char* op) {
  void* library = dlopen("libnvinfer.so.11", RTLD_LAZY | RTLD_NOLOAD);
  auto* get_registry = reinterpret_cast<IPluginRegistry* (*)()>(dlsym(library, "getPluginRegistry"));
  IPluginV3* plugin = create(get_registry(), op);
  if (!plugin) return 100;
  auto* build = static_cast<IPluginV3QuickAOTBuild*>(
      plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
  std::vector<DataType> types;
  std::vector<int32_t> ranks;
  for (const Tensor& input : inputs_of(op)) {
    types.push_back(input.type == DataType::kHALF ? DataType::kFLOAT : input.type);
    ranks.push_back(static_cast<int32_t>(input.sizes.size()));
  }
  DataType output{};
  return build->getOutputDataTypes(&output, 1, types.data(), ranks.data(),
                                   static_cast<int32_t>(types.size()));
}
