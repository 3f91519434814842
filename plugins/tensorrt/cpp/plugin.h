// One node of domain vq4dit in TensorRT: IPluginV3, TensorRT 10.0 to 11.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <string>
#include <vector>

#include "kernel_table.h"
#include "op_attributes.h"

namespace vq4dit {

constexpr const char* kNamespace = "vq4dit";
constexpr const char* kVersion = "1";

// Writes to TensorRT's logger where the library has been given one, else to stderr.
void log_error(const std::string& message);
void set_logger_finder(nvinfer1::ILoggerFinder* finder);

class CodebookPlugin : public nvinfer1::IPluginV3,
                       public nvinfer1::IPluginV3OneCore,
                       public nvinfer1::IPluginV3OneBuild,
                       public nvinfer1::IPluginV3OneRuntime {
 public:
  CodebookPlugin(OpKind op, const OpAttributes& attributes);
  CodebookPlugin(const CodebookPlugin& other);
  CodebookPlugin& operator=(const CodebookPlugin&) = delete;

  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // IPluginV3OneCore
  nvinfer1::AsciiChar const* getPluginName() const noexcept override;
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override;
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override;

  // IPluginV3OneBuild
  int32_t getNbOutputs() const noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t num_outputs,
                             nvinfer1::DataType const* inputs,
                             int32_t num_inputs) const noexcept override;
  int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t num_inputs,
                          nvinfer1::DimsExprs const* shape_inputs, int32_t num_shape_inputs,
                          nvinfer1::DimsExprs* outputs, int32_t num_outputs,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const* in_out,
                                 int32_t num_inputs, int32_t num_outputs) noexcept override;
  int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t num_inputs,
                          nvinfer1::DynamicPluginTensorDesc const* out,
                          int32_t num_outputs) noexcept override;
  int32_t getNbTactics() noexcept override;
  int32_t getValidTactics(int32_t* tactics, int32_t num_tactics) noexcept override;
  char const* getTimingCacheID() noexcept override;

  // IPluginV3OneRuntime
  int32_t setTactic(int32_t tactic) noexcept override;
  int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t num_inputs,
                        nvinfer1::PluginTensorDesc const* out,
                        int32_t num_outputs) noexcept override;
  int32_t enqueue(nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const* out,
                  void const* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

 private:
  OpKind op_;
  OpAttributes attributes_;
  AttributeFields fields_;
  std::vector<int32_t> tactics_;  // of the shapes that configurePlugin was told
  int32_t tactic_ = 0;
  std::string timing_cache_id_;
};

class CodebookCreator : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit CodebookCreator(OpKind op) : op_(op), fields_(op) {}

  nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const* name,
                                    nvinfer1::PluginFieldCollection const* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
  nvinfer1::AsciiChar const* getPluginName() const noexcept override;
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override;
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override;

 private:
  OpKind op_;
  AttributeFields fields_;
};

}  // namespace vq4dit
