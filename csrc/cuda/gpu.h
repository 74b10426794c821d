// What kernels use of a GPU. Under nvcc: its headers, and the PTX instructions that have no
// function there. Elsewhere tests/cuda_emulator/cuda_emulator.h stands for all of it, in plain C++,
// and runs the kernels as they are.
//
// Rules that keep both true: shared memory only through dynamic_shared, each asynchronous copy
// committed and waited for, masks said, launches by cudaLaunchKernelEx.
#pragma once

#if !defined(__CUDACC__)
#include "cuda_emulator.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace fullconv::gpu {

// The block's shared memory, whose size the launch says.
template <class T>
__device__ __forceinline__ T& dynamic_shared() {
  extern __shared__ __align__(128) unsigned char memory[];
  return *reinterpret_cast<T*>(memory);
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Stores 16 aligned bytes in global memory by one instruction: the compiler would cut a struct.
__device__ __forceinline__ void store_words(void* to, const uint32_t (&words)[4]) {
  asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(to)),
               "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}

// Starts to copy 4, 8 or 16 aligned bytes from global into shared memory; zeros if not `wanted`,
// but `from` must be an address all the same.
template <int BYTES>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool wanted) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  int bytes = wanted ? BYTES : 0;
  if constexpr (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)),
                 "l"(from), "n"(BYTES), "r"(bytes)
                 : "memory");
}

// Makes a group of the thread's copies since the last one.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until all but the latest GROUPS of the thread's groups are there.
template <int GROUPS>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// Loads four 8x8 matrices of 16-bit elements into a warp's registers: lane 8m + r gives the address
// of row r of matrix m, and gets elements (lane / 4, 2·(lane % 4) + 0, 1) of each; of each one's
// transpose if `TRANSPOSED`.
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  if constexpr (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// sum += a·b on tensor cores, by a warp: a is 16x16 (16x8 for TF32), b as deep and 8 wide. The
// lanes' fragments lie as the PTX ISA's "Matrix Fragments for mma.m16n8k16" (m16n8k8) says.
template <class S>
__device__ void multiply_matrices(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#define FULLCONV_MMA(shape, type)                                           \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type      \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

template <>
__device__ __forceinline__ void multiply_matrices<__half>(float (&sum)[4], const uint32_t (&a)[4],
                                                          const uint32_t (&b)[2]) {
  FULLCONV_MMA("m16n8k16", "f16");
}

template <>
__device__ __forceinline__ void multiply_matrices<__nv_bfloat16>(float (&sum)[4],
                                                                 const uint32_t (&a)[4],
                                                                 const uint32_t (&b)[2]) {
  FULLCONV_MMA("m16n8k16", "bf16");
}

template <>
__device__ __forceinline__ void multiply_matrices<float>(float (&sum)[4], const uint32_t (&a)[4],
                                                         const uint32_t (&b)[2]) {
  FULLCONV_MMA("m16n8k8", "tf32");
}
#undef FULLCONV_MMA

// The bits of a float rounded to TF32.
__device__ __forceinline__ uint32_t round_to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

}  // namespace fullconv::gpu

#endif
