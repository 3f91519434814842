// Memory that a thread keeps between calls, and its division into aligned parts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace vq4dit {

constexpr size_t kAlignment = 64;

// One growing buffer per thread, shared by all layers.
class Scratch {
 public:
  ~Scratch() { std::free(memory_); }

  // At least `size` bytes, 64-byte aligned; null when there is no memory.
  uint8_t* reserve(size_t size) {
    if (size > size_) {
      std::free(memory_);
      memory_ = std::malloc(size + kAlignment);
      size_ = memory_ ? size : 0;
    }
    if (!memory_) return nullptr;
    const auto address = reinterpret_cast<uintptr_t>(memory_);
    return reinterpret_cast<uint8_t*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
};

// Hands out 64-byte aligned parts of a buffer; with a null buffer it only adds up their sizes.
class Carver {
 public:
  explicit Carver(uint8_t* base) : base_(base) {}

  template <typename T>
  T* take(int64_t count) {
    uint8_t* part = base_ ? base_ + size_ : nullptr;
    size_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(part);
  }

  size_t size() const { return size_; }

 private:
  uint8_t* base_;
  size_t size_ = 0;
};

}  // namespace vq4dit
