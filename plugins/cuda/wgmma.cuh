// Products of a warpgroup (four warps) on Hopper: A from registers, B from shared memory, in the
// background. Needs sm_90a.
// Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions": wgmma.mma_async,
// wgmma.fence, "Matrix Descriptor Format"; "movmatrix"; "membar / fence", .proxy.async.
#pragma once

#include "device.cuh"

// What this thread has written to shared memory so far is there for products of the warpgroups that
// a barrier lets go on after it: they read by another way than loads do (the async proxy).
VQ_DEVICE void fence_shared_for_products() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// Before products whose registers something else has written.
VQ_DEVICE void fence_product_registers() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}

VQ_DEVICE void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

// Waits until at most kPending of the warpgroup's latest groups of products are under way.
template <int kPending>
VQ_DEVICE void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}

// Keeps the compiler from writing sums any later than here, and from reading them any earlier.
template <int kTiles>
VQ_DEVICE void keep_in_place(float (&sums)[kTiles][4]) {
#pragma unroll
  for (int j = 0; j < kTiles; j++)
    asm volatile("" : "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3]));
}

// Descriptor of rows of 128 bytes in shared memory with the 128-byte swizzle of x_tile.cuh; 16
// columns further on is 2 more. Addresses and distances are in units of 16 bytes:
//
//   bits  0..13  start              32..45  from 8 rows to the next 8: 1024 bytes
//        16..29  not used here      62..63  swizzle, 1: of 128 bytes
//
// The upper half never changes: it is joined at the last moment.
#define VQ_DESCRIPTOR "0x4000004000000000"
VQ_DEVICE uint32 product_rows(uint32 address) { return address >> 4; }

// Numbers of inline assembly's operands: VQ_TEN(4) is "%40, %41, ... %49, ".
#define VQ_TEN(d)                                                                          \
  "%" #d "0, %" #d "1, %" #d "2, %" #d "3, %" #d "4, %" #d "5, %" #d "6, %" #d "7, %" #d "8, " \
  "%" #d "9, "
#define VQ_30 VQ_TEN() VQ_TEN(1) VQ_TEN(2)
#define VQ_90 VQ_30 VQ_TEN(3) VQ_TEN(4) VQ_TEN(5) VQ_TEN(6) VQ_TEN(7) VQ_TEN(8)
// Sums of 8 and of 32 columns as operands.
#define VQ_SUMS(j) "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3])
#define VQ_SUMS_4(j) VQ_SUMS(j), VQ_SUMS(j + 1), VQ_SUMS(j + 2), VQ_SUMS(j + 3)

#if VQ_BFLOAT16
#define VQ_PRODUCT_TYPES "f32.bf16.bf16"
#else
#define VQ_PRODUCT_TYPES "f32.f16.f16"
#endif

// One product of N columns: registers of the sums, of A, start of the rows; adds to the sums.
#define VQ_PRODUCT(n, sum_registers, a_registers, start_register, ...)                          \
  asm volatile(                                                                                 \
      "{\n.reg .pred add;\n.reg .b64 rows;\nsetp.eq.u32 add, 0, 0;\n"                           \
      "cvt.u64.u32 rows, " start_register ";\nor.b64 rows, rows, " VQ_DESCRIPTOR ";\n"          \
      "wgmma.mma_async.sync.aligned.m64n" #n "k16." VQ_PRODUCT_TYPES " {" sum_registers "}, {"  \
      a_registers "}, rows, add, 1, 1, 0;\n}\n"                                                 \
      : __VA_ARGS__                                                                             \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(rows))

// sums (64 x 8 kTilesN, float32) += A (64 x 16) B (16 x 8 kTilesN), B's columns being rows of
// shared memory. Lane 4g + t of warp w holds of A and of the sums rows 16w + g and 16w + g + 8: of
// A as in mma.m16n8k16, of the sums columns 8j + 2t and the next one in sums[j][0, 1] and [2, 3].
VQ_DEVICE void multiply_add(float (&sums)[8][4], const uint32 (&a)[4], uint32 rows) {
  VQ_PRODUCT(64, VQ_30 "%30, %31", "%32, %33, %34, %35", "%36", VQ_SUMS_4(0), VQ_SUMS_4(4));
}

VQ_DEVICE void multiply_add(float (&sums)[12][4], const uint32 (&a)[4], uint32 rows) {
  VQ_PRODUCT(96, VQ_30 VQ_TEN(3) "%40, %41, %42, %43, %44, %45, %46, %47",
             "%48, %49, %50, %51", "%52", VQ_SUMS_4(0), VQ_SUMS_4(4), VQ_SUMS_4(8));
}

VQ_DEVICE void multiply_add(float (&sums)[16][4], const uint32 (&a)[4], uint32 rows) {
  VQ_PRODUCT(128, VQ_30 VQ_TEN(3) VQ_TEN(4) VQ_TEN(5) "%60, %61, %62, %63", "%64, %65, %66, %67",
             "%68", VQ_SUMS_4(0), VQ_SUMS_4(4), VQ_SUMS_4(8), VQ_SUMS_4(12));
}

VQ_DEVICE void multiply_add(float (&sums)[24][4], const uint32 (&a)[4], uint32 rows) {
  VQ_PRODUCT(192, VQ_90 "%90, %91, %92, %93, %94, %95", "%96, %97, %98, %99", "%100",
             VQ_SUMS_4(0), VQ_SUMS_4(4), VQ_SUMS_4(8), VQ_SUMS_4(12), VQ_SUMS_4(16),
             VQ_SUMS_4(20));
}

// An 8 x 8 matrix of 16-bit values, of which lane 4g + t holds (g, 2t) and (g, 2t + 1), transposed.
VQ_DEVICE uint32 transposed(uint32 pair) {
  uint32 result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(result) : "r"(pair));
  return result;
}

// The same of float32: as matrices of their low and of their high halves.
VQ_DEVICE void transpose(float (&pair)[2]) {
  const uint32 first = __float_as_uint(pair[0]), second = __float_as_uint(pair[1]);
  const uint32 low = transposed(__byte_perm(first, second, 0x5410));
  const uint32 high = transposed(__byte_perm(first, second, 0x7632));
  pair[0] = __uint_as_float(__byte_perm(low, high, 0x5410));
  pair[1] = __uint_as_float(__byte_perm(low, high, 0x7632));
}
