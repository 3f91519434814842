// The part of ONNX Runtime's C ABI that this library uses, declared on our own.
//
// ONNX Runtime hands out a table of function pointers that only ever grows at its end, so a
// function's place in it never changes. `Api` reads the places listed below from the table of
// version kApiVersion (ONNX Runtime 1.17 and newer have it). Source for places and signatures: the
// public header onnxruntime_c_api.h, "OrtApi" and "OrtCustomOp".
#pragma once

#include <cstddef>
#include <cstdint>

namespace vq4dit::ort {

// Oldest version that has KernelContext_ParallelFor and InferOutputShapeFn.
constexpr uint32_t kApiVersion = 17;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2, kNotImplemented = 9 };
enum ElementType : int { kUndefined = 0, kFloat = 1, kInt8 = 3 };
enum AttributeType : int { kAttributeInt = 1 };
enum Characteristic : int { kRequired = 0 };
enum MemoryType : int { kMemoryDefault = 0 };

// Opaque on our side.
struct Status;
struct Value;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct CustomOpDomain;
struct TensorInfo;
struct ShapeContext;
struct OpAttribute;
struct CustomOp;

// X(place in the table, name, return type, parameters)
#define VQ4DIT_ORT_FUNCTIONS(X)                                                                   \
  X(0, CreateStatus, Status*, (ErrorCode code, const char* message))                              \
  X(2, GetErrorMessage, const char*, (const Status* status))                                      \
  X(26, CreateCustomOpDomain, Status*, (const char* name, CustomOpDomain** out))                  \
  X(27, CustomOpDomain_Add, Status*, (CustomOpDomain * domain, const CustomOp* op))               \
  X(28, AddCustomOpDomain, Status*, (SessionOptions * options, CustomOpDomain* domain))           \
  X(51, GetTensorMutableData, Status*, (Value * value, void** out))                               \
  X(57, CreateTensorTypeAndShapeInfo, Status*, (TensorInfo * *out))                               \
  X(58, SetTensorElementType, Status*, (TensorInfo * info, ElementType type))                     \
  X(59, SetDimensions, Status*, (TensorInfo * info, const int64_t* dims, size_t count))           \
  X(60, GetTensorElementType, Status*, (const TensorInfo* info, ElementType* out))                \
  X(61, GetDimensionsCount, Status*, (const TensorInfo* info, size_t* out))                       \
  X(62, GetDimensions, Status*, (const TensorInfo* info, int64_t* dims, size_t count))            \
  X(63, GetSymbolicDimensions, Status*,                                                           \
    (const TensorInfo* info, const char** names, size_t count))                                   \
  X(65, GetTensorTypeAndShape, Status*, (const Value* value, TensorInfo** out))                   \
  X(86, KernelInfoGetAttribute_int64, Status*,                                                    \
    (const KernelInfo* info, const char* name, int64_t* out))                                     \
  X(87, KernelInfoGetAttribute_string, Status*,                                                   \
    (const KernelInfo* info, const char* name, char* out, size_t* size))                          \
  X(88, KernelContext_GetInputCount, Status*, (const KernelContext* context, size_t* out))        \
  X(90, KernelContext_GetInput, Status*,                                                          \
    (const KernelContext* context, size_t index, const Value** out))                              \
  X(91, KernelContext_GetOutput, Status*,                                                         \
    (KernelContext * context, size_t index, const int64_t* dims, size_t count, Value** out))      \
  X(93, ReleaseStatus, void, (Status * status))                                                   \
  X(99, ReleaseTensorTypeAndShapeInfo, void, (TensorInfo * info))                                 \
  X(101, ReleaseCustomOpDomain, void, (CustomOpDomain * domain))                                  \
  X(237, HasSessionConfigEntry, Status*,                                                          \
    (const SessionOptions* options, const char* key, int* out))                                   \
  X(238, GetSessionConfigEntry, Status*,                                                          \
    (const SessionOptions* options, const char* key, char* value, size_t* size))                  \
  X(244, KernelInfo_GetNodeName, Status*, (const KernelInfo* info, char* out, size_t* size))      \
  X(249, KernelInfoGetConstantInput_tensor, Status*,                                              \
    (const KernelInfo* info, size_t index, int* is_constant, const Value** out))                  \
  X(267, ShapeInferContext_GetInputCount, Status*, (const ShapeContext* context, size_t* out))    \
  X(268, ShapeInferContext_GetInputTypeShape, Status*,                                            \
    (const ShapeContext* context, size_t index, TensorInfo** out))                                \
  X(269, ShapeInferContext_GetAttribute, Status*,                                                 \
    (const ShapeContext* context, const char* name, const OpAttribute** out))                     \
  X(270, ShapeInferContext_SetOutputTypeShape, Status*,                                           \
    (const ShapeContext* context, size_t index, const TensorInfo* info))                          \
  X(271, SetSymbolicDimensions, Status*, (TensorInfo * info, const char** names, size_t count))   \
  X(272, ReadOpAttr, Status*,                                                                     \
    (const OpAttribute* attribute, AttributeType type, void* data, size_t size, size_t* out))     \
  X(274, KernelContext_ParallelFor, Status*,                                                      \
    (const KernelContext* context, void (*task)(void*, size_t), size_t total, size_t num_batch,   \
     void* user_data))

// The functions, read from ONNX Runtime's table by their places.
struct Api {
#define VQ4DIT_DECLARE(place, name, result, parameters) result(*name) parameters;
  VQ4DIT_ORT_FUNCTIONS(VQ4DIT_DECLARE)
#undef VQ4DIT_DECLARE

  explicit Api(const void* table) {
    const auto* places = static_cast<const void* const*>(table);
#define VQ4DIT_READ(place, name, result, parameters) \
  name = reinterpret_cast<result(*) parameters>(const_cast<void*>(places[place]));
    VQ4DIT_ORT_FUNCTIONS(VQ4DIT_READ)
#undef VQ4DIT_READ
  }
};

struct ApiBase {
  const void* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// An op's description and callbacks, in the header's order. ONNX Runtime reads the members up to
// the version written in the first one.
struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const void* api, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  ElementType (*GetInputType)(const CustomOp*, size_t);
  size_t (*GetInputTypeCount)(const CustomOp*);
  ElementType (*GetOutputType)(const CustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void*, KernelContext*);
  void (*KernelDestroy)(void*);
  Characteristic (*GetInputCharacteristic)(const CustomOp*, size_t);
  Characteristic (*GetOutputCharacteristic)(const CustomOp*, size_t);
  MemoryType (*GetInputMemoryType)(const CustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, const void* api, const KernelInfo*, void** kernel);
  Status* (*KernelComputeV2)(void* kernel, KernelContext*);
  Status* (*InferOutputShapeFn)(const CustomOp*, ShapeContext*);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  size_t (*GetMayInplace)(int**, int**);
  void (*ReleaseMayInplace)(int*, int*);
  size_t (*GetAliasMap)(int**, int**);
  void (*ReleaseAliasMap)(int*, int*);
};

}  // namespace vq4dit::ort
