// Where the elements are that a contraction multiplies.
//
// An element of a source is found by two places that add up: that of a position (which sample,
// which window) and that of a term (which channel, which tap of the window). A block keeps places
// in shared memory, so that the divisions and the 64-bit products of one are done once a block, and
// not once an element.
#pragma once

#include <algorithm>

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

// Divides by a number that the host knows: what is below 2^31, and all that has 32 bits must be, by
// a product and a shift (Granlund and Montgomery, "Division by invariant integers using
// multiplication").
struct Divider {
  int64_t divisor;
  uint32_t factor;
  int shift;

  Divider() = default;
  explicit Divider(int64_t by) : divisor(by), factor(0), shift(0) {
    while (shift < 31 && int64_t{1} << shift < by) ++shift;
    uint64_t above = (uint64_t{1} << shift) - by;
    if (by >> 31 == 0) factor = static_cast<uint32_t>((above << 32) / std::max<int64_t>(by, 1) + 1);
  }
  template <class NUMBER>
  __device__ __forceinline__ NUMBER operator()(NUMBER number) const {
    if constexpr (sizeof(NUMBER) > 4)
      if (number >> 31) return number / divisor;
    uint32_t low = static_cast<uint32_t>(number);
    uint32_t high = static_cast<uint32_t>(uint64_t{low} * factor >> 32);
    return static_cast<NUMBER>((high + low) >> shift);
  }
};

// What the number of a block (an int), or of an element, says about it: the innermost count first.
template <class NUMBER>
struct Digits {
  NUMBER rest;
  __device__ __forceinline__ NUMBER next(int64_t count) {
    NUMBER base = static_cast<NUMBER>(count), digit = rest % base;
    rest /= base;
    return digit;
  }
  __device__ __forceinline__ NUMBER next(const Divider& by) {
    NUMBER quotient = by(rest), digit = rest - quotient * static_cast<NUMBER>(by.divisor);
    rest = quotient;
    return digit;
  }
};

constexpr int kStrip = 4;  // rows that one thread may take, one below the other

// A progression whose counts divide numbers.
struct Line : Progression {
  Divider by_positions, by_strips, by_taps;

  Line() = default;
  Line(const Progression& axis)
      : Progression(axis),
        by_positions(positions),
        by_strips((positions + kStrip - 1) / kStrip),
        by_taps(taps) {}
};

struct alignas(16) Place {
  int64_t offset;
  int h, w;  // coordinates: the sum of two must lie within the source
};

// Any place plus this one shows nothing. All other coordinates are smaller than half of it.
constexpr int kNowhere = -(1 << 30);
__device__ __forceinline__ Place nowhere() { return {0, kNowhere, kNowhere}; }

// What a padded coordinate shows: an index, or -1 for a zero.
__device__ __forceinline__ int shown(const Line& axis, int coordinate) {
  if (axis.padding != Padding::zeros)
    return static_cast<int>(shown_index(coordinate, axis.limit, axis.padding));
  auto limit = static_cast<unsigned>(axis.limit);
  return static_cast<unsigned>(coordinate) < limit ? coordinate : -1;
}

// An element, or a zero instead; `at` is an address all the same.
template <class S>
struct Shown {
  const S* at;
  bool any;
};

// MIRRORS: whether padding may show elements again.
template <class S, bool MIRRORS>
struct Source {
  const S* data;
  int height, width;
  int64_t row, column;  // strides
  Padding padding;

  // The element that the places show.
  __device__ __forceinline__ Shown<S> find(const Place& a, const Place& b) const {
    int h = a.h + b.h, w = a.w + b.w;
    const S* at = data + (a.offset + b.offset);
    if (static_cast<unsigned>(h) < static_cast<unsigned>(height) &&
        static_cast<unsigned>(w) < static_cast<unsigned>(width))
      return {at, true};
    if (!MIRRORS || padding == Padding::zeros || h < kNowhere / 2) return {data, false};
    return {at + (shown_index(h, height, padding) - h) * row +
                (shown_index(w, width, padding) - w) * column,
            true};
  }
};

// A position by its coordinates.
struct Position {
  int64_t sample;
  int y, x;
};

// One group of a segment of a tensor, under a pair of progressions. What a block finds again and
// again it numbers in 32 bits, below 2^31.
template <class S>
struct Patches {
  View view;
  int64_t batch, components;
  const Divider& channels;
  const Line &h, &w;

  template <bool MIRRORS = true>
  __device__ Source<S, MIRRORS> source(int64_t segment, int64_t group) const {
    return {static_cast<const S*>(view.data) + segment * batch * view.n +
                group * channels.divisor * view.c,
            static_cast<int>(h.limit),
            static_cast<int>(w.limit),
            view.h,
            view.w,
            h.padding};
  }

  __device__ int64_t positions() const { return batch * h.positions * w.positions; }
  __device__ int64_t terms() const { return h.taps * w.taps * components * channels.divisor; }

  __device__ Position position_of(int64_t number) const {
    Digits digits{number};
    int64_t x = digits.next(w.by_positions), y = digits.next(h.by_positions);
    return {digits.rest, static_cast<int>(y), static_cast<int>(x)};
  }

  // The place of the position that lies `number` after another.
  template <class NUMBER>
  __device__ Place position(NUMBER number, const Position& from = {}) const {
    Digits digits{number + from.x};
    int64_t x = w.base + digits.next(w.by_positions) * w.step;
    digits.rest += from.y;
    int64_t y = h.base + digits.next(h.by_positions) * h.step;
    int64_t sample = from.sample + digits.rest;
    if (sample >= batch) return nowhere();
    return {sample * view.n + y * view.h + x * view.w, static_cast<int>(y), static_cast<int>(x)};
  }

  // Terms count channels, then the imaginary parts of channels, then columns of taps, then rows.
  template <class NUMBER>
  __device__ Place term(NUMBER index) const {
    Digits digits{index};
    int64_t channel = digits.next(channels), component = 0;
    if (components == 2) component = digits.rest & 1, digits.rest >>= 1;
    int64_t s = digits.next(w.by_taps);
    if (digits.rest >= h.taps) return nowhere();
    Place place = tap(channel, digits.rest, s);
    place.offset += component;
    return place;
  }

  __device__ Place tap(int64_t channel, int64_t r, int64_t s) const {
    int64_t y = r * h.tap_step, x = s * w.tap_step;
    return {channel * view.c + y * view.h + x * view.w, static_cast<int>(y), static_cast<int>(x)};
  }
};

}  // namespace fullconv::cuda
