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

// Divides numbers below 2^31 by one that the host knows, from 1 to 2^31: a product and a shift
// (Granlund and Montgomery, "Division by invariant integers using multiplication").
struct Divider {
  uint32_t divisor, factor;
  int shift;

  Divider() = default;
  explicit Divider(int64_t by) : divisor(static_cast<uint32_t>(by)), shift(0) {
    while (int64_t{1} << shift < by) ++shift;
    uint64_t above = (uint64_t{1} << shift) - by;
    factor = static_cast<uint32_t>((above << 32) / by + 1);
  }
  __device__ __forceinline__ uint32_t operator()(uint32_t number) const {
    uint32_t high = static_cast<uint32_t>(uint64_t{number} * factor >> 32);
    return (high + number) >> shift;
  }
};

// What the number of an element says about it, as Digits: the innermost count first.
struct FastDigits {
  uint32_t rest;
  __device__ __forceinline__ uint32_t next(const Divider& by) {
    uint32_t quotient = by(rest), digit = rest - quotient * by.divisor;
    rest = quotient;
    return digit;
  }
};

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
