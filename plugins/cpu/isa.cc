#include "isa.h"

#include "layer.h"

namespace vq4dit {
namespace {

std::vector<const Kernels*> detect() {
  std::vector<const Kernels*> found = {&kScalarKernels};
#if defined(VQ4DIT_HAVE_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2")) {
    found.push_back(&kAvx2Kernels);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni")) {
      found.push_back(&kAvx512Kernels);
      if (__builtin_cpu_supports("avx512vbmi")) found.push_back(&kAvx512VbmiKernels);
    }
  }
#endif
#if defined(VQ4DIT_HAVE_NEON)
  found.push_back(&kNeonKernels);
#endif
  return found;
}

}  // namespace

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> kernels = detect();
  return kernels;
}

const Kernels& kernels_by_name(const std::string& name) {
  if (name.empty()) return *available_kernels().back();
  std::string known;
  for (const Kernels* kernels : available_kernels()) {
    if (name == kernels->name) return *kernels;
    known += (known.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw Error("session key vq4dit.isa is '" + name + "'; this machine and build have: " + known);
}

}  // namespace vq4dit
