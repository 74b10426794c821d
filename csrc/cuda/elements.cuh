// Single elements of tensors, for kernels that take each by itself or with a few neighbours.
#pragma once

#include <limits>
#include <type_traits>

#include "places.cuh"

namespace fullconv::cuda {

constexpr int kElementThreads = 256;

// Integers are compared and added in 32 bits, or in their own 64.
template <class S>
  requires std::is_integral_v<S>
struct Compute<S> {
  using type = std::conditional_t<sizeof(S) == 8, int64_t, int32_t>;
};

template <class S>
  requires std::is_integral_v<S>
__device__ __forceinline__ typename Compute<S>::type widen(S value) {
  return value;
}
template <class S>
  requires std::is_integral_v<S>
__device__ __forceinline__ void narrow(typename Compute<S>::type value, S& to) {
  to = static_cast<S>(value);
}

// Neighbours that are read or written by one instruction.
template <class E, int COUNT>
struct alignas(sizeof(E) * COUNT) Pack {
  E at[COUNT];
};
template <class E, int COUNT>
constexpr int kPacked = COUNT * sizeof(E) >= 16 ? 16 / sizeof(E) : 1;

template <class E, int COUNT>
__device__ __forceinline__ void load(const E* from, E (&to)[COUNT]) {
  constexpr int packed = kPacked<E, COUNT>;
#pragma unroll
  for (int i = 0; i < COUNT; i += packed) {
    auto pack = *reinterpret_cast<const Pack<E, packed>*>(from + i);
#pragma unroll
    for (int k = 0; k < packed; ++k) to[i + k] = pack.at[k];
  }
}

template <class E, int COUNT>
__device__ __forceinline__ void store(const E (&from)[COUNT], E* to) {
  constexpr int packed = kPacked<E, COUNT>;
#pragma unroll
  for (int i = 0; i < COUNT; i += packed) {
    if constexpr (packed == 1) {
      to[i] = from[i];
    } else {
      uint32_t words[4];
      memcpy(words, from + i, sizeof words);
      gpu::store_words(to + i, words);
    }
  }
}

}  // namespace fullconv::cuda
