// Stands for libcuda.so.1: takes what a program asks of the driver and prints it, runs no kernel.
// Device memory is the host's; a stream does everything at once, a graph repeats what it captured.
// The compute capability comes from the environment, FAKE_CUDA_SM=87; FAKE_CUDA_FAIL names a
// function that fails, FAKE_CUDA_CRASH one that tells of a crash; FAKE_CUDA_DEVICES=0 takes the GPU
// away.
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr int kInvalidValue = 1, kNoBinaryForGpu = 209, kNotFound = 500, kLaunchFailed = 719;
constexpr int kMajor = 75, kMinor = 76;
constexpr int kPointers = 6;

int fail(const char* function) {
  const char* named = std::getenv("FAKE_CUDA_FAIL");
  const char* crash = std::getenv("FAKE_CUDA_CRASH");
  if (crash && !std::strcmp(crash, function)) return kLaunchFailed;
  return named && !std::strcmp(named, function) ? kInvalidValue : 0;
}

int sm() {
  const char* text = std::getenv("FAKE_CUDA_SM");
  return text ? std::atoi(text) : 87;
}

// Lines of the graph that is being captured; printed when it is launched.
bool& is_capturing() {
  static bool capturing = false;
  return capturing;
}
std::vector<std::string>& captured() {
  static std::vector<std::string> lines;
  return lines;
}

void tell(const std::string& line) {
  if (is_capturing())
    captured().push_back(line);
  else
    std::printf("%s\n", line.c_str());
}

std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string text(const char* format, ...) {
  char buffer[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
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
  std::string line = text("launch %s %u %u %u %u %u %u %u", kernel.c_str(), gx, gy, gz, bx, by, bz,
                          shared);
  // By the names of the kernels: inputs, integers, output (plugins/cuda/parameters.py).
  const bool decode = kernel.find("_decode_") != std::string::npos;
  const bool residual = kernel.find("gate_residual") != std::string::npos;
  const int inputs = decode ? 2 : residual ? kPointers : 4;
  const int integers = decode ? 3 : residual ? 5 : 4;
  for (int i = 0; i < inputs; ++i) line += text(" %p", *static_cast<void**>(arguments[i]));
  for (int i = 0; i < integers; ++i)
    line += text(" %d", *static_cast<int32_t*>(arguments[inputs + i]));
  tell(line + text(" %p", *static_cast<void**>(arguments[inputs + integers])));
  return fail("cuLaunchKernel");
}

int cuGetErrorName(int result, const char** name) {
  *name = result == kInvalidValue     ? "CUDA_ERROR_INVALID_VALUE"
          : result == kNoBinaryForGpu ? "CUDA_ERROR_NO_BINARY_FOR_GPU"
          : result == kLaunchFailed   ? "CUDA_ERROR_LAUNCH_FAILED"
                                      : "CUDA_ERROR_NOT_FOUND";
  return 0;
}

// What benchmarks/acceptance/cuda_driver.py asks for besides.
int cuInit(unsigned flags) { return flags; }

int cuDeviceGetCount(int* count) {
  const char* told = std::getenv("FAKE_CUDA_DEVICES");
  *count = told ? std::atoi(told) : 1;
  return 0;
}

int cuDeviceGet(int* device, int number) {
  *device = number;
  return number;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = reinterpret_cast<void*>(2);
  return device;
}

int cuCtxSetCurrent(void* context) { return context != reinterpret_cast<void*>(2); }
int cuCtxSynchronize() { return fail("cuCtxSynchronize"); }

int cuDeviceGetName(char* name, int size, int) {
  std::snprintf(name, size, "Fake GPU");
  return 0;
}

int cuDriverGetVersion(int* version) {
  *version = 13020;
  return 0;
}

int cuMemGetInfo_v2(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = size_t{3} << 32;  // more than 32 bits hold
  *total_bytes = size_t{5} << 32;
  return 0;
}

int cuMemAlloc_v2(uint64_t* pointer, size_t size) {
  *pointer = reinterpret_cast<uint64_t>(std::malloc(size));
  return 0;
}

int cuMemFree_v2(uint64_t pointer) {
  std::free(reinterpret_cast<void*>(pointer));
  return 0;
}

int cuMemcpyHtoD_v2(uint64_t target, const void* source, size_t size) {
  std::memcpy(reinterpret_cast<void*>(target), source, size);
  return 0;
}

int cuMemcpyDtoH_v2(void* target, uint64_t source, size_t size) {
  std::memcpy(target, reinterpret_cast<void*>(source), size);
  return 0;
}

int cuMemsetD8Async(uint64_t target, unsigned char value, size_t size, void* stream) {
  std::memset(reinterpret_cast<void*>(target), value, size);
  return stream != reinterpret_cast<void*>(3);
}

int cuStreamCreate(void** stream, unsigned flags) {
  *stream = reinterpret_cast<void*>(3);
  return flags != 1;
}

int cuEventCreate(void** event, unsigned flags) {
  static intptr_t made = 0;
  *event = reinterpret_cast<void*>(++made);
  return flags;
}

int cuEventRecord(void*, void* stream) { return stream != reinterpret_cast<void*>(3); }
int cuEventSynchronize(void*) { return 0; }
int cuEventDestroy_v2(void*) { return 0; }

// Milliseconds between events: their numbers' difference, a quarter each.
int cuEventElapsedTime(float* milliseconds, void* start, void* end) {
  const auto number = [](void* event) { return reinterpret_cast<intptr_t>(event); };
  *milliseconds = 0.25f * static_cast<float>(number(end) - number(start));
  return 0;
}

int cuStreamBeginCapture_v2(void*, int mode) {
  is_capturing() = true;
  captured().clear();
  return mode != 2;
}

int cuStreamEndCapture(void*, void** graph) {
  is_capturing() = false;
  *graph = new std::vector<std::string>(captured());
  return 0;
}

int cuGraphInstantiateWithFlags(void** executable, void* graph, uint64_t flags) {
  *executable = new std::vector<std::string>(*static_cast<std::vector<std::string>*>(graph));
  return static_cast<int>(flags);
}

int cuGraphDestroy(void* graph) {
  delete static_cast<std::vector<std::string>*>(graph);
  return 0;
}

int cuGraphExecDestroy(void* executable) { return cuGraphDestroy(executable); }

int cuGraphLaunch(void* executable, void* stream) {
  for (const std::string& line : *static_cast<std::vector<std::string>*>(executable))
    std::printf("graph %s\n", line.c_str());
  return stream != reinterpret_cast<void*>(3);
}
}
