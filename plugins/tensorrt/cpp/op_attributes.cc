#include "op_attributes.h"

#include <cstring>

namespace vq4dit {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr const char* kActivationNames[] = {"none", "gelu_tanh", "silu"};
constexpr const char* kActivationField = "activation";

struct IntegerField {
  const char* name;
  int32_t OpAttributes::*member;
};
constexpr IntegerField kIntegerFields[] = {
    {"in_features", &OpAttributes::in_features},
    {"codebook_size", &OpAttributes::codebook_size},
    {"sub_vector_len", &OpAttributes::sub_vector_len},
    {"group_order", &OpAttributes::group_order},
    {"assignment_layout", &OpAttributes::assignment_layout},
};

const PluginField* find_field(const nvinfer1::PluginFieldCollection& fields, const char* name) {
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField& field = fields.fields[i];
    if (field.name && !std::strcmp(field.name, name)) return field.data ? &field : nullptr;
  }
  return nullptr;
}

// The parser gives INT32, TensorRT's Python API INT64.
bool read_integer(const PluginField& field, int32_t* value) {
  if (field.length != 1) return false;
  if (field.type == PluginFieldType::kINT32) {
    std::memcpy(value, field.data, sizeof *value);
    return true;
  }
  if (field.type != PluginFieldType::kINT64) return false;
  int64_t wide = 0;
  std::memcpy(&wide, field.data, sizeof wide);
  *value = static_cast<int32_t>(wide);
  return *value == wide;
}

// The parser counts the closing NUL in the length, TensorRT's Python API gives none.
std::string read_text(const PluginField& field) {
  const char* text = static_cast<const char*>(field.data);
  return std::string(text, strnlen(text, field.length > 0 ? field.length : 0));
}

std::string read_activation(const nvinfer1::PluginFieldCollection& fields, Activation* activation) {
  const PluginField* field = find_field(fields, kActivationField);
  if (!field) return "attribute activation is missing; needed none, gelu_tanh or silu";
  const std::string name = read_text(*field);
  for (int32_t i = 0; i < 3; ++i) {
    if (name == kActivationNames[i]) {
      *activation = static_cast<Activation>(i);
      return "";
    }
  }
  return "activation is '" + name + "'; needed none, gelu_tanh or silu";
}

std::string check(const OpAttributes& a) {
  const auto number = [](int32_t value) { return std::to_string(value); };
  if (a.codebook_size < 1 || a.codebook_size > 256)
    return "codebook_size is " + number(a.codebook_size) + ", needed 1..256";
  if (a.in_features < 1 || a.sub_vector_len < 1 || a.in_features % a.sub_vector_len)
    return "in_features " + number(a.in_features) + " is not a positive multiple of sub_vector_len " +
           number(a.sub_vector_len);
  if (a.group_order < 0 || a.group_order > 2)
    return "group_order is " + number(a.group_order) + ", needed 0, 1 or 2";
  const int32_t needed = a.group_order == 1 ? 4 : a.group_order == 2 ? 8 : a.sub_vector_len;
  if (a.sub_vector_len != needed || (a.group_order && a.in_features % (4 * needed)))
    return "group_order " + number(a.group_order) + " needs sub_vector_len " + number(needed) +
           " and in_features a multiple of " + number(4 * needed) + "; found " +
           number(a.sub_vector_len) + " and " + number(a.in_features);
  return "";
}

}  // namespace

const char* op_name(OpKind op) {
  constexpr const char* kNames[] = {"CodebookGemm", "CodebookGemmResidual", "CodebookDecode"};
  return kNames[static_cast<int32_t>(op)];
}

int32_t num_inputs(OpKind op) {
  return op == OpKind::kGemm ? 4 : op == OpKind::kGemmResidual ? 6 : 2;
}

int32_t codebook_input(OpKind op) { return op == OpKind::kDecode ? 0 : 1; }
int32_t assignments_input(OpKind op) { return codebook_input(op) + 1; }

bool OpAttributes::operator==(const OpAttributes& other) const {
  for (const IntegerField& field : kIntegerFields) {
    if (this->*field.member != other.*field.member) return false;
  }
  return activation == other.activation;
}

std::string read_attributes(OpKind op, const nvinfer1::PluginFieldCollection* fields,
                            OpAttributes* attributes) {
  if (!fields) return "no attributes were given";
  for (const IntegerField& wanted : kIntegerFields) {
    const PluginField* field = find_field(*fields, wanted.name);
    if (!field) return std::string("attribute ") + wanted.name + " is missing";
    if (!read_integer(*field, &(attributes->*wanted.member)))
      return std::string("attribute ") + wanted.name + " is not one integer of 32 bits";
  }
  if (op == OpKind::kGemm) {
    const std::string problem = read_activation(*fields, &attributes->activation);
    if (!problem.empty()) return problem;
  }
  return check(*attributes);
}

AttributeFields::AttributeFields(OpKind op) {
  for (const IntegerField& field : kIntegerFields)
    fields_.emplace_back(field.name, nullptr, PluginFieldType::kINT32, 1);
  if (op == OpKind::kGemm)
    fields_.emplace_back(kActivationField, nullptr, PluginFieldType::kCHAR, 0);
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

AttributeFields::AttributeFields(OpKind op, const OpAttributes& attributes)
    : attributes_(attributes),
      activation_(kActivationNames[static_cast<int32_t>(attributes.activation)]) {
  for (const IntegerField& field : kIntegerFields)
    fields_.emplace_back(field.name, &(attributes_.*field.member), PluginFieldType::kINT32, 1);
  if (op == OpKind::kGemm)
    fields_.emplace_back(kActivationField, activation_.c_str(), PluginFieldType::kCHAR,
                         static_cast<int32_t>(activation_.size() + 1));
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

}  // namespace vq4dit
