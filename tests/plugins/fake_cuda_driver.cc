// Stands for libcuda.so.1: takes what a program asks of the driver and prints it, runs nothing.
// The compute capability comes from the environment, FAKE_CUDA_SM=87; FAKE_CUDA_FAIL names a
// function that fails.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

constexpr int kInvalidValue = 1, kNoBinaryForGpu = 209, kNotFound = 500;
constexpr int kMajor = 75, kMinor = 76;
constexpr int kPointers = 6;

int fail(const char* function) {
  const char* named = std::getenv("FAKE_CUDA_FAIL");
  return named && !std::strcmp(named, function) ? kInvalidValue : 0;
}

int sm() {
  const char* text = std::getenv("FAKE_CUDA_SM");
  return text ? std::atoi(text) : 87;
}

// The only module: name of the last image that was loaded.
std::string& image() {
  static std::string kind;
  return kind;
}

}  // namespace

extern "C" {

int cuCtxGetCurrent(void** context) {
  *context = reinterpret_cast<void*>(1);
  return fail("cuCtxGetCurrent");
}

int cuCtxGetDevice(int* device) {
  *device = 0;
  return fail("cuCtxGetDevice");
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == kMajor ? sm() / 10 : attribute == kMinor ? sm() % 10 : 0;
  return 0;
}

// A cubin is an ELF file; anything else must be PTX text.
int cuModuleLoadData(void** module, const void* data) {
  if (fail("cuModuleLoadData")) return kNoBinaryForGpu;
  const char* bytes = static_cast<const char*>(data);
  image() = !std::memcmp(bytes, "\177ELF", 4) ? "cubin" : std::strstr(bytes, ".entry") ? "ptx" : "?";
  *module = &image();
  return 0;
}

int cuModuleGetFunction(void** function, void*, const char* name) {
  if (fail("cuModuleGetFunction")) return kNotFound;
  *function = new std::string(image() + " " + name);
  return 0;
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
  std::printf("attribute %s %d %d\n", static_cast<std::string*>(function)->c_str(), attribute,
              value);
  return fail("cuFuncSetAttribute");
}

int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void*, void** arguments, void**) {
  const std::string& kernel = *static_cast<std::string*>(function);
  std::printf("launch %s %u %u %u %u %u %u %u", kernel.c_str(), gx, gy, gz, bx, by, bz, shared);
  // By the names of the kernels: inputs, integers, output (plugins/cuda/parameters.py).
  const bool decode = kernel.find("_decode_") != std::string::npos;
  const bool residual = kernel.find("gate_residual") != std::string::npos;
  const int inputs = decode ? 2 : residual ? kPointers : 4;
  const int integers = decode ? 3 : residual ? 5 : 4;
  for (int i = 0; i < inputs; ++i) std::printf(" %p", *static_cast<void**>(arguments[i]));
  for (int i = 0; i < integers; ++i)
    std::printf(" %d", *static_cast<int32_t*>(arguments[inputs + i]));
  std::printf(" %p\n", *static_cast<void**>(arguments[inputs + integers]));
  return fail("cuLaunchKernel");
}

int cuGetErrorName(int result, const char** name) {
  *name = result == kInvalidValue     ? "CUDA_ERROR_INVALID_VALUE"
          : result == kNoBinaryForGpu ? "CUDA_ERROR_NO_BINARY_FOR_GPU"
                                      : "CUDA_ERROR_NOT_FOUND";
  return 0;
}
}
