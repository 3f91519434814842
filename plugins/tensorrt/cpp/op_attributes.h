// The attributes of one node of domain vq4dit, as TensorRT hands them over and takes them back.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

namespace vq4dit {

enum class OpKind : int32_t { kGemm = 0, kGemmResidual = 1, kDecode = 2 };
constexpr int32_t kNumOps = 3;

// As GroupOrder and ACTIVATIONS in plugins/layout.py and plugins/reference.py.
enum class GroupOrder : int32_t { kContiguous = 0, kMma16 = 1, kMma32 = 2 };
enum class Activation : int32_t { kNone = 0, kGeluTanh = 1, kSilu = 2 };

const char* op_name(OpKind op);
int32_t num_inputs(OpKind op);
// Place of an input in the schema's order (plugins/schema.py).
int32_t codebook_input(OpKind op);
int32_t assignments_input(OpKind op);

struct OpAttributes {
  int32_t in_features = 0;
  int32_t codebook_size = 0;
  int32_t sub_vector_len = 0;
  int32_t group_order = -1;
  int32_t assignment_layout = -1;
  Activation activation = Activation::kNone;

  bool operator==(const OpAttributes& other) const;
};

// Reads and checks the attributes of a node. Returns "" or what is wrong: found, needed, where.
std::string read_attributes(OpKind op, const nvinfer1::PluginFieldCollection* fields,
                            OpAttributes* attributes);

// Fields over a set of attributes; the addresses stay valid as long as this object lives unmoved.
class AttributeFields {
 public:
  // Names only, for a creator.
  explicit AttributeFields(OpKind op);
  AttributeFields(OpKind op, const OpAttributes& attributes);
  AttributeFields(const AttributeFields&) = delete;
  AttributeFields& operator=(const AttributeFields&) = delete;

  const nvinfer1::PluginFieldCollection* collection() const { return &collection_; }

 private:
  OpAttributes attributes_;
  std::string activation_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace vq4dit
