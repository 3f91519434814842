// Small C++ wrappings of the C ABI: checked calls, attributes, tensors.
#pragma once

#include <string>
#include <vector>

#include "layer.h"
#include "ort_abi.h"

namespace vq4dit::ort {

// Throws Error with ONNX Runtime's message where a call failed.
void check(const Api& api, Status* status);

// A value of the session's configuration, or `otherwise` where the key was never set.
std::string session_entry(const Api& api, const SessionOptions* options, const char* key,
                          const std::string& otherwise);

int64_t int_attribute(const Api& api, const KernelInfo* info, const char* name);
std::string string_attribute(const Api& api, const KernelInfo* info, const char* name);
std::string node_name(const Api& api, const KernelInfo* info);

// A tensor's type, shape and data; the data stays ONNX Runtime's.
struct Tensor {
  ElementType type = kUndefined;
  std::vector<int64_t> shape;
  const void* data = nullptr;

  const float* floats() const { return static_cast<const float*>(data); }
  const int8_t* bytes() const { return static_cast<const int8_t*>(data); }
};

Tensor tensor_of(const Api& api, const Value* value);

// Runs `body` and turns what it throws into a status; nothing may be thrown through C frames.
template <typename Body>
Status* guarded(const Api& api, const std::string& where, Body body) {
  try {
    body();
    return nullptr;
  } catch (const Error& error) {
    return api.CreateStatus(kInvalidArgument, (where + ": " + error.what()).c_str());
  } catch (const std::exception& error) {
    return api.CreateStatus(kFail, (where + ": " + error.what()).c_str());
  }
}

}  // namespace vq4dit::ort
