#include "shape_inference.h"

#include <string>
#include <vector>

#include "ort_helpers.h"

namespace vq4dit {
namespace {

using ort::Api;

int64_t int_attribute(const Api& api, const ort::ShapeContext* context, const char* name) {
  const ort::OpAttribute* attribute = nullptr;
  int64_t value = 0;
  size_t size = 0;
  ort::check(api, api.ShapeInferContext_GetAttribute(context, name, &attribute));
  ort::check(api, api.ReadOpAttr(attribute, ort::kAttributeInt, &value, sizeof value, &size));
  return value;
}

// Dimensions of an input (-1 where unknown) with their symbolic names ("" where there are none).
struct SymbolicShape {
  std::vector<int64_t> dims;
  std::vector<std::string> names;
};

SymbolicShape shape_of_input(const Api& api, const ort::ShapeContext* context, size_t index) {
  ort::TensorInfo* info = nullptr;  // borrowed from the context
  ort::check(api, api.ShapeInferContext_GetInputTypeShape(context, index, &info));
  size_t rank = 0;
  ort::check(api, api.GetDimensionsCount(info, &rank));
  SymbolicShape shape{std::vector<int64_t>(rank), std::vector<std::string>(rank)};
  std::vector<const char*> names(rank, nullptr);
  ort::check(api, api.GetDimensions(info, shape.dims.data(), rank));
  ort::check(api, api.GetSymbolicDimensions(info, names.data(), rank));
  for (size_t i = 0; i < rank; ++i) shape.names[i] = names[i] ? names[i] : "";
  return shape;
}

void set_output_shape(const Api& api, ort::ShapeContext* context, const SymbolicShape& shape) {
  std::vector<const char*> names;
  for (const std::string& name : shape.names) names.push_back(name.c_str());
  ort::TensorInfo* info = nullptr;
  ort::check(api, api.CreateTensorTypeAndShapeInfo(&info));
  ort::Status* status = api.SetTensorElementType(info, ort::kFloat);
  if (!status) status = api.SetDimensions(info, shape.dims.data(), shape.dims.size());
  if (!status) status = api.SetSymbolicDimensions(info, names.data(), names.size());
  if (!status) status = api.ShapeInferContext_SetOutputTypeShape(context, 0, info);
  api.ReleaseTensorTypeAndShapeInfo(info);
  ort::check(api, status);
}

}  // namespace

void infer_shape(const Api& api, OpKind kind, ort::ShapeContext* context) {
  const bool four_major = int_attribute(api, context, "assignment_layout") == 1;
  const SymbolicShape assignments = shape_of_input(api, context, assignments_input(kind));
  const size_t axis = four_major ? 1 : 0;
  if (assignments.dims.size() <= axis) return;  // wrong rank: the kernel will say so
  SymbolicShape shape;
  if (kind == OpKind::kDecode) {
    shape = {{0, int_attribute(api, context, "in_features")}, {"", ""}};
    shape.dims[0] = assignments.dims[axis];
    shape.names[0] = assignments.names[axis];
  } else {
    shape = shape_of_input(api, context, kX);
    if (shape.dims.empty()) return;
    shape.dims.back() = assignments.dims[axis];
    shape.names.back() = assignments.names[axis];
  }
  // ONNX Runtime would take a dimension with neither value nor name for the value -1: then the
  // model's own value_info has to do.
  for (size_t i = 0; i < shape.dims.size(); ++i) {
    if (shape.dims[i] < 0 && shape.names[i].empty()) return;
  }
  set_output_shape(api, context, shape);
}

}  // namespace vq4dit
