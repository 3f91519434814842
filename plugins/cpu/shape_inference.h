// Output shapes of the ops, told to ONNX Runtime when a model is loaded.
#pragma once

#include "ops.h"

namespace vq4dit {

// Sets the output's type and shape from the inputs' shapes and the node's attributes; leaves it
// unknown where a rank is wrong (the kernel names the mistake). Throws Error.
void infer_shape(const ort::Api& api, OpKind kind, ort::ShapeContext* context);

}  // namespace vq4dit
