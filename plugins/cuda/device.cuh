// What the kernels say to the GPU: loads, copies, tensor-core products, in PTX.
// Source: PTX ISA, "cp.async", "ldmatrix", "mma.m16n8k16". Needs sm_80; includes nothing, so that
// a bare compiler is enough.
#pragma once

using uint8 = unsigned char;
using uint16 = unsigned short;
using uint32 = unsigned int;
using uint64 = unsigned long long;
using int64 = long long;

#define VQ_DEVICE __device__ __forceinline__

enum : int { kLanes = 32 };
enum : int { kWordBits = 32 };

VQ_DEVICE uint32 shared_address(const void* pointer) {
  return static_cast<uint32>(__cvta_generic_to_shared(pointer));
}

// base + count * kUnit as one instruction: left to itself, the compiler takes such sums apart and
// spends four on each address.
template <int kUnit>
VQ_DEVICE const uint8* advanced(const uint8* base, uint32 count) {
  uint64 address;
  asm("mad.wide.u32 %0, %1, %2, %3;\n"
      : "=l"(address)
      : "r"(count), "n"(kUnit), "l"(reinterpret_cast<uint64>(base)));
  return reinterpret_cast<const uint8*>(address);
}

// Copies 16 bytes from global to shared memory in the background; with is_live false, zeros.
VQ_DEVICE void copy_16_bytes(uint32 target, const void* source, bool is_live) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(target), "l"(source),
               "r"(is_live ? 16 : 0));
}

VQ_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;\n"); }

// Waits until at most kPending of this thread's latest groups of copies are under way.
template <int kPending>
VQ_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

VQ_DEVICE uint32 load_shared(uint32 address) {
  uint32 value;
  asm volatile("ld.shared.u32 %0, [%1];\n" : "=r"(value) : "r"(address));
  return value;
}

VQ_DEVICE void load_shared(uint32 address, uint32 (&value)[2]) {
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];\n" : "=r"(value[0]), "=r"(value[1]) : "r"(address));
}

VQ_DEVICE void load_shared(uint32 address, uint32 (&value)[4]) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(value[0]), "=r"(value[1]), "=r"(value[2]), "=r"(value[3])
               : "r"(address));
}

VQ_DEVICE void store_zeros(uint32 address) {
  asm volatile("st.shared.u32 [%0], %1;\n" ::"r"(address), "r"(0) : "memory");
}

// A 16x16 fragment: lane l gives the address of 16 bytes of row l % 16, columns 8 (l / 16)...
VQ_DEVICE void load_fragment(uint32 address, uint32 (&fragment)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(address));
}

// sum (16x8, float32) += a (16x16) b (16x8, given as two registers).
VQ_DEVICE void multiply_add(float (&sum)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
#if VQ_BFLOAT16
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#endif
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// One float16 or bfloat16 as float32.
VQ_DEVICE float to_float(uint16 value) {
#if VQ_BFLOAT16
  return __uint_as_float(static_cast<uint32>(value) << 16);
#else
  float result;
  asm("cvt.f32.f16 %0, %1;\n" : "=f"(result) : "h"(value));
  return result;
#endif
}

// Two float32 rounded to nearest float16 or bfloat16, the first in the low half.
VQ_DEVICE uint32 to_pair(float first, float second) {
  uint32 pair;
#if VQ_BFLOAT16
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(second), "f"(first));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(second), "f"(first));
#endif
  return pair;
}
