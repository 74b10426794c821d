// Pooling: each thread reduces what a position of the result meets in the source. The adjoints
// gather too, from the windows that cover an element of the input, so that nothing needs atomics
// and sums have one order.
//
// Memory bounds it. Neighbouring threads take neighbouring elements, in channels_last VECTOR
// channels each: 16 bytes of values. The source's lines are read as often as windows overlap, which
// is the caches' work.
#pragma once

#include "../windows.h"
#include "elements.cuh"

namespace fullconv::cuda {

struct PoolAxis {
  WindowOf<int> window;
  int outputs, period;
  Divider stride;
  bool all;  // whether any window may have chosen any element

  __device__ __forceinline__ WindowOf<int>::Range covering(int x) const {
    if (all) return {0, outputs, 1};
    return window.covering(x, outputs, period, stride);
  }
};

struct PoolJob {
  View source, result;
  View indices;  // as the result or, for max_scatter, as the source; null for max without them
  PoolAxis h, w;
  uint32_t results;                 // vectors of them
  Divider channels, rows, columns;  // of results
  Divider width;                    // of the input
  bool channels_first;
  int first_row;
  bool count_include_pad;
  int64_t divisor;
};

template <class T>
__device__ __forceinline__ bool is_nan(T value) {
  if constexpr (std::is_integral_v<T>)
    return false;
  else
    return value != value;
}

template <class S>
__device__ __forceinline__ typename Compute<S>::type lowest() {
  if constexpr (std::is_integral_v<S>)
    return std::numeric_limits<S>::lowest();
  else
    return -std::numeric_limits<typename Compute<S>::type>::infinity();
}

template <class S, Pooling POOLING, int VECTOR>
struct PoolResult {
  using T = typename Compute<S>::type;

  const PoolJob& job;
  int y, x;
  const S* source;  // of this sample and channel
  int64_t* indices;
  T value[VECTOR];

  static __device__ __forceinline__ void run(const PoolJob& job) {
    Digits digits{blockIdx.x * kElementThreads + threadIdx.x};
    if (digits.rest >= job.results) return;
    int64_t channel = job.channels_first ? 0 : digits.next(job.channels);
    int x = digits.next(job.columns), y = job.first_row + digits.next(job.rows);
    if (job.channels_first) channel = digits.next(job.channels);
    int64_t n = digits.rest;
    channel *= VECTOR;

    const View &in = job.source, &out = job.result, &index = job.indices;
    PoolResult result{job,
                      y,
                      x,
                      static_cast<const S*>(in.data) + n * in.n + channel * in.c,
                      static_cast<int64_t*>(index.data) + n * index.n + channel * index.c,
                      {}};
    result.reduce();
    S narrowed[VECTOR];
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) narrow(result.value[i], narrowed[i]);
    store(narrowed,
          static_cast<S*>(out.data) + n * out.n + channel * out.c + y * out.h + x * out.w);
  }

 private:
  __device__ __forceinline__ void reduce() {
    if constexpr (POOLING == Pooling::max) max();
    if constexpr (POOLING == Pooling::max_gather) max_gather();
    if constexpr (POOLING == Pooling::max_scatter) max_scatter();
    if constexpr (POOLING == Pooling::average) average();
    if constexpr (POOLING == Pooling::average_adjoint) average_adjoint();
  }

  __device__ __forceinline__ void read(int64_t row, int64_t column, T (&to)[VECTOR]) const {
    S from[VECTOR];
    load(source + row * job.source.h + column * job.source.w, from);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) to[i] = widen(from[i]);
  }

  // Calls f(element, its index from the window's first element on) for the window at (y, x).
  template <class F>
  __device__ __forceinline__ void for_window(const F& f) const {
    const WindowOf<int>&h = job.h.window, &w = job.w.window;
    int top = h.first(y), bottom = h.end(y), left = w.first(x), right = w.end(x);
    for (int row = top; row < bottom; row += h.dilation)
      for (int column = left; column < right; column += w.dilation) {
        T met[VECTOR];
        read(row, column, met);
        f(met, (row - top) * w.size + column - left);
      }
  }

  // Calls f(row, column) for the windows that cover (y, x).
  template <class F>
  __device__ __forceinline__ void for_covering(const F& f) const {
    auto rows = job.h.covering(y), columns = job.w.covering(x);
    for (int row = rows.begin; row < rows.end; row += rows.step)
#pragma unroll 1
      for (int column = columns.begin; column < columns.end; column += columns.step) f(row, column);
  }

  // The index of the window's first element in a plane of the input.
  __device__ __forceinline__ int64_t origin() const {
    return int64_t{job.h.window.first(y)} * job.w.window.size + job.w.window.first(x);
  }

  __device__ __forceinline__ void max() {
    int largest[VECTOR] = {};
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) value[i] = lowest<S>();
    for_window([&](const T(&met)[VECTOR], int index) {
#pragma unroll
      for (int i = 0; i < VECTOR; ++i)
        if (met[i] > value[i] || is_nan(met[i])) value[i] = met[i], largest[i] = index;
    });
    if (!job.indices.data) return;
    int64_t all[VECTOR];
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) all[i] = origin() + largest[i];
    store(all, indices + y * job.indices.h + x * job.indices.w);
  }

  // An index outside the plane reads nothing, nor does one above the window or left of it.
  __device__ __forceinline__ void max_gather() {
    const WindowOf<int>&h = job.h.window, &w = job.w.window;
    // A window that meets no column starts in a row below.
    int top = h.first(y), left = w.first(x), below = job.width(left);
    top += below, left -= below * w.size;
    uint64_t first = origin();
    int64_t all[VECTOR];
    load(indices + y * job.indices.h + x * job.indices.w, all);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      uint64_t index = static_cast<uint64_t>(all[i]) - first;
      if (index > std::numeric_limits<int>::max()) continue;
      int rows = job.width(index), columns = static_cast<int>(index) - rows * w.size;
      if (rows >= h.size - top || columns >= w.size - left) continue;
      const S* from = source + (top + rows) * job.source.h + (left + columns) * job.source.w;
      value[i] = widen(from[i * job.source.c]);
    }
  }

  __device__ __forceinline__ void max_scatter() {
    int64_t own = int64_t{y} * job.w.window.size + x;
    for_covering([&](int64_t row, int64_t column) {
      int64_t all[VECTOR];
      T grad[VECTOR];
      load(indices + row * job.indices.h + column * job.indices.w, all);
      read(row, column, grad);
#pragma unroll
      for (int i = 0; i < VECTOR; ++i)
        if (all[i] == own) value[i] += grad[i];
    });
  }

  __device__ __forceinline__ T divisor(int row, int column) const {
    if (job.divisor) return static_cast<T>(job.divisor);
    return static_cast<T>(int64_t{job.h.window.extent(row, job.count_include_pad)} *
                          job.w.window.extent(column, job.count_include_pad));
  }

  __device__ __forceinline__ void average() {
    for_window([&](const T(&met)[VECTOR], int) {
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) value[i] += met[i];
    });
    T by = divisor(y, x);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) value[i] /= by;
  }

  __device__ __forceinline__ void average_adjoint() {
    for_covering([&](int row, int column) {
      T grad[VECTOR], by = divisor(row, column);
      read(row, column, grad);
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) value[i] += grad[i] / by;
    });
  }
};

template <class S, Pooling POOLING, int VECTOR>
__global__ void __launch_bounds__(kElementThreads)
    pool_results(const __grid_constant__ PoolJob job) {
  PoolResult<S, POOLING, VECTOR>::run(job);
}

}  // namespace fullconv::cuda
