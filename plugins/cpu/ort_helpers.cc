#include "ort_helpers.h"

namespace vq4dit::ort {
namespace {

// ONNX Runtime's string protocol: asked without a buffer it tells the size, terminator included.
// The first call may report the size or a "buffer too small" status, by version.
template <typename Call>
std::string read_string(const Api& api, Call call) {
  size_t size = 0;
  if (Status* status = call(nullptr, &size)) {
    if (size == 0) check(api, status);
    api.ReleaseStatus(status);
  }
  std::string text(size, '\0');
  check(api, call(text.data(), &size));
  text.resize(size > 0 ? size - 1 : 0);
  return text;
}

}  // namespace

void check(const Api& api, Status* status) {
  if (!status) return;
  const std::string message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw Error(message);
}

std::string session_entry(const Api& api, const SessionOptions* options, const char* key,
                          const std::string& otherwise) {
  int present = 0;
  check(api, api.HasSessionConfigEntry(options, key, &present));
  if (!present) return otherwise;
  return read_string(api, [&](char* out, size_t* size) {
    return api.GetSessionConfigEntry(options, key, out, size);
  });
}

int64_t int_attribute(const Api& api, const KernelInfo* info, const char* name) {
  int64_t value = 0;
  if (Status* status = api.KernelInfoGetAttribute_int64(info, name, &value)) {
    api.ReleaseStatus(status);
    throw Error(std::string("attribute ") + name + " is missing or not an integer");
  }
  return value;
}

std::string string_attribute(const Api& api, const KernelInfo* info, const char* name) {
  try {
    return read_string(api, [&](char* out, size_t* size) {
      return api.KernelInfoGetAttribute_string(info, name, out, size);
    });
  } catch (const Error&) {
    throw Error(std::string("attribute ") + name + " is missing or not a string");
  }
}

std::string node_name(const Api& api, const KernelInfo* info) {
  return read_string(api, [&](char* out, size_t* size) {
    return api.KernelInfo_GetNodeName(info, out, size);
  });
}

Tensor tensor_of(const Api& api, const Value* value) {
  TensorInfo* info = nullptr;
  check(api, api.GetTensorTypeAndShape(value, &info));
  Tensor tensor;
  size_t rank = 0;
  Status* status = api.GetTensorElementType(info, &tensor.type);
  if (!status) status = api.GetDimensionsCount(info, &rank);
  if (!status) {
    tensor.shape.resize(rank);
    status = api.GetDimensions(info, tensor.shape.data(), rank);
  }
  api.ReleaseTensorTypeAndShapeInfo(info);
  check(api, status);
  void* data = nullptr;
  check(api, api.GetTensorMutableData(const_cast<Value*>(value), &data));
  tensor.data = data;
  return tensor;
}

}  // namespace vq4dit::ort
