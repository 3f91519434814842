// For programs that load plugin libraries without asking for creators (Triton Inference Server's
// plugins option, LD_PRELOAD): the ops register themselves when this library is loaded.
#include "plugin.h"

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);

namespace {

struct Registration {
  Registration() {
    int32_t count = 0;
    nvinfer1::IPluginCreatorInterface* const* creators = getCreators(count);
    for (int32_t i = 0; i < count; ++i)
      getPluginRegistry()->registerCreator(*creators[i], vq4dit::kNamespace);
  }
};
const Registration kRegistration;

}  // namespace
