// A GPU for tests, in plain C++: what csrc/cuda/gpu.h gives kernels under nvcc.
//
// Each CUDA thread is a fiber of its own. A launch runs its blocks one after the other, in shuffled
// order; a thread runs until it has to wait, then a thread drawn from all that can go on. Shared
// memory is full of NaN when a block starts. An asynchronous copy happens when the thread waits for
// it, not before. So what works by luck on some GPU fails here: a missing barrier, a wait that is
// too lax. A launch fails if threads wait for each other for ever, meet at different barriers,
// leave copies behind or use misaligned addresses; the sanitizers see every access to memory.
//
// Not covered: the PTX text, the order of memory between blocks, speed.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct Index3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
extern Index3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

void __syncthreads(int line = __builtin_LINE());

// ---- The runtime.

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
using cudaStream_t = void*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};
const char* cudaGetErrorString(cudaError_t);
inline cudaError_t cudaMallocManaged(void** memory, size_t bytes) {
  *memory = std::malloc(bytes);
  return *memory ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

inline int atomicExch(int* at, int value) {
  return __atomic_exchange_n(at, value, __ATOMIC_RELAXED);
}
using std::isfinite;

namespace cuda_emulator {

cudaError_t allow_shared_memory(const void* kernel, int bytes);
cudaError_t launch(const void* kernel, const cudaLaunchConfig_t&, void (*run)(void*), void* what);
[[noreturn]] void fail(const char* format, ...);

}  // namespace cuda_emulator

template <class KERNEL>
cudaError_t cudaFuncSetAttribute(KERNEL* kernel, cudaFuncAttribute, int bytes) {
  return cuda_emulator::allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes);
}

template <class... PARAMETERS, class... ARGUMENTS>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(PARAMETERS...),
                               ARGUMENTS&&... arguments) {
  auto call = [&] { kernel(arguments...); };
  return cuda_emulator::launch(
      reinterpret_cast<const void*>(kernel), *config,
      [](void* what) { (*static_cast<decltype(call)*>(what))(); }, &call);
}

// ---- 16-bit numbers, rounded to the nearest, ties to even.

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float value) {
    uint32_t wide = std::bit_cast<uint32_t>(value);
    bits = value != value ? 0x7fff : (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
  }
};
struct __half {
  uint16_t bits;
  __half() = default;
  explicit __half(float value) : bits(std::bit_cast<uint16_t>(static_cast<_Float16>(value))) {}
};
inline float __bfloat162float(__nv_bfloat16 value) {
  return std::bit_cast<float>(uint32_t{value.bits} << 16);
}
inline float __half2float(__half value) { return std::bit_cast<_Float16>(value.bits); }
inline __nv_bfloat16 __float2bfloat16(float value) { return __nv_bfloat16(value); }
inline __half __float2half(float value) { return __half(value); }

// ---- csrc/cuda/gpu.h's functions.

namespace cuda_emulator {

unsigned char* shared_memory();
void start_copy(void* to, const void* from, int bytes, bool wanted);
void commit_copies();
void wait_for_copies(size_t groups);

// What the lanes of a warp tell each other.
struct Exchange {
  const void* row[32];
  float a[16][16], b[16][8];
};
// This thread's warp, a new one at each call of any of its lanes; they must come to as many calls.
Exchange& exchange();
void wait_for_warp(const char* what);
void note_read(const void* from, size_t bytes);

}  // namespace cuda_emulator

namespace fullconv::gpu {

template <class T>
T& dynamic_shared() {
  return *reinterpret_cast<T*>(cuda_emulator::shared_memory());
}

inline void store_words(void* to, const uint32_t (&words)[4]) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0)
    cuda_emulator::fail("a store to a misaligned address");
  std::memcpy(to, words, sizeof words);
}

template <int BYTES>
void copy_async(void* to, const void* from, bool wanted) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  cuda_emulator::start_copy(to, from, BYTES, wanted);
}

inline void commit_copies() { cuda_emulator::commit_copies(); }

template <int GROUPS>
void wait_for_copies() {
  cuda_emulator::wait_for_copies(GROUPS);
}

template <bool TRANSPOSED>
void load_matrices(uint32_t (&to)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    cuda_emulator::fail("ldmatrix: a row at a misaligned address");
  cuda_emulator::Exchange& warp = cuda_emulator::exchange();
  int lane = threadIdx.x % 32;
  warp.row[lane] = row;
  cuda_emulator::wait_for_warp("ldmatrix");
  for (int matrix = 0; matrix < 4; ++matrix)
    for (int half = 0; half < 2; ++half) {
      int major = lane / 4, minor = lane % 4 * 2 + half;
      if (TRANSPOSED) std::swap(major, minor);
      const uint16_t* element = static_cast<const uint16_t*>(warp.row[matrix * 8 + major]) + minor;
      cuda_emulator::note_read(element, 2);
      uint32_t bits = *element;
      to[matrix] = half ? to[matrix] | bits << 16 : bits;
    }
}

inline float from_bits(__half, uint32_t bits) {
  return std::bit_cast<_Float16>(static_cast<uint16_t>(bits));
}
inline float from_bits(__nv_bfloat16, uint32_t bits) { return std::bit_cast<float>(bits << 16); }

// The fragments' layouts, of the PTX ISA: lane = 4·group + member holds
//   m16n8k16  a[i]: row group + 8·(i % 2), columns 2·member + 8·(i / 2) + 0, 1
//             b[i]: rows 2·member + 8·i + 0, 1, column group
//   m16n8k8   a[i]: row group + 8·(i % 2), column member + 4·(i / 2)
//             b[i]: row member + 4·i, column group
//   sum[i]: row group + 8·(i / 2), column 2·member + i % 2
template <class S>
void multiply_matrices(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  cuda_emulator::Exchange& warp = cuda_emulator::exchange();
  int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
  constexpr int depth = sizeof(S) == 2 ? 16 : 8;
  if constexpr (sizeof(S) == 2) {
    for (int half = 0; half < 2; ++half) {
      auto element = [&](uint32_t pair) { return from_bits(S{}, pair >> 16 * half & 0xffff); };
      for (int i = 0; i < 4; ++i)
        warp.a[group + 8 * (i % 2)][2 * member + 8 * (i / 2) + half] = element(a[i]);
      for (int i = 0; i < 2; ++i) warp.b[2 * member + 8 * i + half][group] = element(b[i]);
    }
  } else {
    auto element = [](uint32_t bits) { return std::bit_cast<float>(bits & ~0x1fffu); };
    for (int i = 0; i < 4; ++i) warp.a[group + 8 * (i % 2)][member + 4 * (i / 2)] = element(a[i]);
    for (int i = 0; i < 2; ++i) warp.b[member + 4 * i][group] = element(b[i]);
  }
  cuda_emulator::wait_for_warp("mma");
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < depth; ++k)
      sum[i] += warp.a[group + 8 * (i / 2)][k] * warp.b[k][2 * member + i % 2];
}

inline uint32_t round_to_tf32(float value) {  // ties away from zero
  uint32_t bits = std::bit_cast<uint32_t>(value);
  bool finite = (bits & 0x7f800000) != 0x7f800000;
  return (finite ? bits + 0x1000 : bits) & ~0x1fffu;
}

}  // namespace fullconv::gpu
