#include "driver.h"

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <utility>

namespace vq4dit {
namespace {

// Types and numbers of cuda.h, CUDA driver API; declared here since the driver is never linked.
using Result = int;
using Device = int;
using Context = void*;
using Module = void*;
using Function = void*;
constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;
constexpr int kMaxDynamicSharedBytes = 8;
constexpr uint32_t kDefaultSharedBytes = 48 * 1024;

struct Driver {
  Result (*context_get_current)(Context*) = nullptr;
  Result (*context_get_device)(Device*) = nullptr;
  Result (*device_get_attribute)(int*, int, Device) = nullptr;
  Result (*module_load_data)(Module*, const void*) = nullptr;
  Result (*module_get_function)(Function*, Module, const char*) = nullptr;
  Result (*function_set_attribute)(Function, int, int) = nullptr;
  Result (*launch_kernel)(Function, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t,
                          uint32_t, void*, void**, void**) = nullptr;
  Result (*get_error_name)(Result, const char**) = nullptr;
  std::string problem;
};

template <typename Pointer>
void find(void* library, const char* name, Pointer* function, std::string* problem) {
  *function = reinterpret_cast<Pointer>(dlsym(library, name));
  if (!*function && problem->empty())
    *problem = std::string("the CUDA driver has no ") + name + "; needed CUDA 11 or newer";
}

Driver load_driver() {
  Driver d;
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    d.problem = "libcuda.so.1 was not found; install the NVIDIA driver";
    return d;
  }
  find(library, "cuCtxGetCurrent", &d.context_get_current, &d.problem);
  find(library, "cuCtxGetDevice", &d.context_get_device, &d.problem);
  find(library, "cuDeviceGetAttribute", &d.device_get_attribute, &d.problem);
  find(library, "cuModuleLoadData", &d.module_load_data, &d.problem);
  find(library, "cuModuleGetFunction", &d.module_get_function, &d.problem);
  find(library, "cuFuncSetAttribute", &d.function_set_attribute, &d.problem);
  find(library, "cuLaunchKernel", &d.launch_kernel, &d.problem);
  find(library, "cuGetErrorName", &d.get_error_name, &d.problem);
  return d;
}

const Driver& driver() {
  static const Driver loaded = load_driver();
  return loaded;
}

std::string error_text(const char* call, Result result) {
  const char* name = nullptr;
  if (driver().get_error_name) driver().get_error_name(result, &name);
  return std::string(call) + " failed: " + (name ? name : "error " + std::to_string(result));
}

// Modules belong to a context and stay loaded until it ends, as the driver itself keeps them.
struct LoadedKernels {
  std::mutex mutex;
  std::map<std::pair<Context, const Image*>, Module> modules;
  std::map<std::pair<Context, const char*>, Function> functions;
};

LoadedKernels& loaded_kernels() {
  static auto* loaded = new LoadedKernels;  // never destroyed: the driver may be gone by then
  return *loaded;
}

std::string load_module(const Image* image, Context context, Module* module) {
  LoadedKernels& loaded = loaded_kernels();
  const auto found = loaded.modules.find({context, image});
  if (found != loaded.modules.end()) {
    *module = found->second;
    return "";
  }
  const Result result = driver().module_load_data(module, image->data);
  if (result)
    return error_text("cuModuleLoadData", result) + " for the image of sm_" +
           std::to_string(image->compute_capability);
  loaded.modules[{context, image}] = *module;
  return "";
}

std::string find_function(const Image* images, size_t num_images, const char* kernel,
                          uint32_t shared_bytes, Context context, Function* function) {
  const int32_t capability = current_compute_capability();
  const Image* image = choose_image(images, num_images, capability);
  if (!image)
    return std::string("this library has no ") + kernel + " for sm_" + std::to_string(capability) +
           "; build it with -DVQ4DIT_SM=" + std::to_string(capability);
  Module module = nullptr;
  const std::string problem = load_module(image, context, &module);
  if (!problem.empty()) return problem;
  Result result = driver().module_get_function(function, module, kernel);
  if (result) return error_text("cuModuleGetFunction", result) + " for " + kernel;
  if (shared_bytes <= kDefaultSharedBytes) return "";
  result = driver().function_set_attribute(*function, kMaxDynamicSharedBytes,
                                           static_cast<int>(shared_bytes));
  if (!result) return "";
  return error_text("cuFuncSetAttribute", result) + " for " + std::to_string(shared_bytes) +
         " bytes of shared memory";
}

std::string load_function(const Image* images, size_t num_images, const char* kernel,
                          uint32_t shared_bytes, Function* function) {
  Context context = nullptr;
  if (driver().context_get_current(&context) || !context)
    return "this thread has no CUDA context";
  LoadedKernels& loaded = loaded_kernels();
  const std::lock_guard<std::mutex> lock(loaded.mutex);
  const auto found = loaded.functions.find({context, kernel});
  if (found != loaded.functions.end()) {
    *function = found->second;
    return "";
  }
  const std::string problem =
      find_function(images, num_images, kernel, shared_bytes, context, function);
  if (problem.empty()) loaded.functions[{context, kernel}] = *function;
  return problem;
}

// Jetson: Orin and Thor.
bool is_tegra(int32_t compute_capability) {
  return compute_capability == 87 || compute_capability == 110;
}

// CUDA C++ Programming Guide, "Binary Compatibility": none from or to Tegra.
bool can_run(const Image& image, int32_t compute_capability) {
  if (image.compute_capability == compute_capability) return true;
  if (image.compute_capability > compute_capability) return false;
  if (image.is_ptx) return true;
  return image.compute_capability / 10 == compute_capability / 10 &&
         !is_tegra(image.compute_capability) && !is_tegra(compute_capability);
}

}  // namespace

int32_t current_compute_capability() {
  const Driver& d = driver();
  Device device = 0;
  int major = 0, minor = 0;
  if (!d.problem.empty() || d.context_get_device(&device)) return 0;
  if (d.device_get_attribute(&major, kComputeCapabilityMajor, device)) return 0;
  if (d.device_get_attribute(&minor, kComputeCapabilityMinor, device)) return 0;
  return 10 * major + minor;
}

const Image* choose_image(const Image* images, size_t num_images, int32_t compute_capability) {
  const Image* chosen = nullptr;
  for (size_t i = 0; i < num_images; ++i) {
    const Image& image = images[i];
    if (!can_run(image, compute_capability)) continue;
    const bool better = !chosen || (chosen->is_ptx && !image.is_ptx) ||
                        (chosen->is_ptx == image.is_ptx &&
                         chosen->compute_capability < image.compute_capability);
    if (better) chosen = &image;
  }
  return chosen;
}

std::string launch(const Image* images, size_t num_images, const char* kernel, const Grid& grid,
                   void** arguments, void* stream) {
  const Driver& d = driver();
  if (!d.problem.empty()) return d.problem;
  Function function = nullptr;
  const std::string problem =
      load_function(images, num_images, kernel, grid.shared_bytes, &function);
  if (!problem.empty()) return problem;
  const Result result = d.launch_kernel(
      function, grid.grid[0], grid.grid[1], grid.grid[2], grid.block[0], grid.block[1],
      grid.block[2], grid.shared_bytes, stream, arguments, nullptr);
  return result ? error_text("cuLaunchKernel", result) : "";
}

}  // namespace vq4dit
