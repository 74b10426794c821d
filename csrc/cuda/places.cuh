// Where the elements are that a contraction multiplies.
//
// An element of a source is found by two places that add up: that of a position (which sample,
// which window) and that of a term (which channel, which tap of the window). A block keeps places
// in shared memory, so that the divisions and the 64-bit products of one are done once a block, and
// not once an element.
#pragma once

#include "../arrays.h"
#include "gpu.h"

namespace fullconv::cuda {

template <class S>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ __forceinline__ void narrow(float value, float& to) { to = value; }
__device__ __forceinline__ void narrow(double value, double& to) { to = value; }
__device__ __forceinline__ void narrow(float value, __half& to) { to = __float2half(value); }
__device__ __forceinline__ void narrow(float value, __nv_bfloat16& to) {
  to = __float2bfloat16(value);
}

// What the number of a block (an int), or of an element, says about it: the innermost count first.
template <class NUMBER>
struct Digits {
  NUMBER rest;
  __device__ __forceinline__ NUMBER next(int64_t count) {
    NUMBER base = static_cast<NUMBER>(count), digit = rest % base;
    rest /= base;
    return digit;
  }
};

struct alignas(16) Place {
  int64_t offset;
  int h, w;  // coordinates: the sum of two must lie within the source
};

// Any place plus this one shows nothing. All other coordinates are smaller than half of it.
constexpr int kNowhere = -(1 << 30);
__device__ __forceinline__ Place nowhere() { return {0, kNowhere, kNowhere}; }

template <class S>
struct Source {
  const S* data;
  int height, width;
  int64_t row, column;  // strides
  Padding padding;

  // The offset of the element that the places show; -1 for a zero.
  __device__ __forceinline__ int64_t find(const Place& a, const Place& b) const {
    int h = a.h + b.h, w = a.w + b.w;
    int64_t offset = a.offset + b.offset;
    if (static_cast<unsigned>(h) < static_cast<unsigned>(height) &&
        static_cast<unsigned>(w) < static_cast<unsigned>(width))
      return offset;
    if (padding == Padding::zeros || h < kNowhere / 2) return -1;
    return offset + (shown_index(h, height, padding) - h) * row +
           (shown_index(w, width, padding) - w) * column;
  }
};

// One group of a segment of a tensor, under a pair of progressions.
template <class S>
struct Patches {
  View view;
  int64_t batch, channels, components;
  const Progression &h, &w;

  __device__ Source<S> source(int64_t segment, int64_t group) const {
    return {static_cast<const S*>(view.data) + segment * batch * view.n + group * channels * view.c,
            static_cast<int>(h.limit),
            static_cast<int>(w.limit),
            view.h,
            view.w,
            h.padding};
  }

  __device__ int64_t positions() const { return batch * h.positions * w.positions; }
  __device__ int64_t terms() const { return h.taps * w.taps * components * channels; }

  __device__ Place position(int64_t index) const {
    if (index >= positions()) return nowhere();
    int64_t row = index / w.positions;
    int64_t y = h.base + row % h.positions * h.step;
    int64_t x = w.base + index % w.positions * w.step;
    return {row / h.positions * view.n + y * view.h + x * view.w, static_cast<int>(y),
            static_cast<int>(x)};
  }

  // Terms count channels, then the imaginary parts of channels, then columns of taps, then rows.
  __device__ Place term(int64_t index) const {
    if (index >= terms()) return nowhere();
    int64_t channel = index % channels, component = index / channels % components;
    int64_t tap = index / (channels * components);
    Place place = this->tap(channel, tap / w.taps, tap % w.taps);
    place.offset += component;
    return place;
  }

  __device__ Place tap(int64_t channel, int64_t r, int64_t s) const {
    int64_t y = r * h.tap_step, x = s * w.tap_step;
    return {channel * view.c + y * view.h + x * view.w, static_cast<int>(y), static_cast<int>(x)};
  }
};

}  // namespace fullconv::cuda
