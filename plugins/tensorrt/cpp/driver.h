// The few functions of the CUDA driver that the plugin needs, found when first used, so that the
// library loads (and builds engines' graphs, and is tested) on machines without a driver.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace vq4dit {

// One compiled image of all kernels: a cubin for one compute capability, or PTX from it on.
struct Image {
  int32_t compute_capability;  // such as 87
  bool is_ptx;                 // text that ends with a NUL
  const void* data;
  size_t size;
};

struct Grid {
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t shared_bytes;
};

// Launches a kernel of `images` on the current context. Returns "" or what went wrong.
// arguments: one address per kernel parameter, as cuLaunchKernel takes them.
std::string launch(const Image* images, size_t num_images, const char* kernel, const Grid& grid,
                   void** arguments, void* stream);

// Compute capability of the current context's device, such as 87; 0 without driver or context.
int32_t current_compute_capability();

// The image that a device of this compute capability runs: its own cubin, else (not on Jetson) that
// of the highest lower minor version, else the newest PTX not above it, else none.
const Image* choose_image(const Image* images, size_t num_images, int32_t compute_capability);

}  // namespace vq4dit
