// What TensorRT looks for in a plugin library (IPluginRegistry::loadLibrary, trtexec's
// --dynamicPlugins): the creators, and a place to leave its logger.
#include "plugin.h"

namespace {

nvinfer1::IPluginCreatorInterface* const* all_creators() {
  static vq4dit::CodebookCreator gemm(vq4dit::OpKind::kGemm);
  static vq4dit::CodebookCreator residual(vq4dit::OpKind::kGemmResidual);
  static vq4dit::CodebookCreator decode(vq4dit::OpKind::kDecode);
  static nvinfer1::IPluginCreatorInterface* const creators[vq4dit::kNumOps] = {&gemm, &residual,
                                                                               &decode};
  return creators;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const*
getCreators(int32_t& count) {
  count = vq4dit::kNumOps;
  return all_creators();
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(
    nvinfer1::ILoggerFinder* finder) {
  vq4dit::set_logger_finder(finder);
}
