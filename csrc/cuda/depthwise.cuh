// Layers whose groups have few channels, of which a tile of rows would be nearly empty: every
// thread sums for elements of its own. Memory bounds them, so what counts is that neighbouring
// threads read neighbouring elements: LANES of a block's threads take channels, VECTOR of them
// each, the others positions.
#pragma once

#include "correlate.cuh"
#include "correlate_weight.cuh"
#include "elements.cuh"

namespace fullconv::cuda {

constexpr int kDirectThreads = 256;

// correlate and full_convolve. A thread's results are those of VECTOR channels in a strip of rows,
// one below the other, so that a filter's element is read once for them. With VECTOR, channels are
// groups of their own, and their filters come packed, [segments][phases][taps][channels].
template <class S, int LANES, int VECTOR>
struct Depthwise {
  using T = typename Compute<S>::type;
  static constexpr int kPositions = kDirectThreads / LANES;

  static __device__ __forceinline__ void run(const CorrelateJob& job) {
    Digits digits{static_cast<int>(blockIdx.x)};
    int64_t channel = int64_t{digits.next(job.row_tiles)} * LANES + threadIdx.x % LANES;
    channel *= VECTOR;
    Digits position{int64_t{digits.next(job.position_tiles)} * kPositions + threadIdx.x / LANES};
    int phase_w = digits.next(job.w.count), phase_h = digits.next(job.h.count);
    int64_t segment = digits.rest;
    const Line &h = job.h.axis[phase_h], &w = job.w.axis[phase_w];
    int64_t column = position.next(w.by_positions), row = position.next(h.by_strips) * kStrip;
    if (channel >= job.groups * job.rows || position.rest >= job.batch) return;
    int64_t sample = segment * job.batch + position.rest, group = channel / job.rows;

    const FilterView& f = job.unpacked;
    const S* filter = static_cast<const S*>(f.data) + segment * f.segment + group * f.group +
                      channel % job.rows * f.row + h.tap * f.r + w.tap * f.s;
    int64_t step_r = h.tap_stride * f.r, step_s = w.tap_stride * f.s;
    if (VECTOR > 1) {
      int64_t taps = (segment * job.h.count + phase_h) * job.w.count + phase_w;
      filter = static_cast<const S*>(job.filter) + taps * job.terms * job.pitch + channel;
      step_r = w.taps * job.pitch, step_s = job.pitch;
    }
    T sum[kStrip][VECTOR] = {};
    for (int64_t depth = 0; depth < job.depth; ++depth) {
      const S* source = static_cast<const S*>(job.source.data) + sample * job.source.n +
                        (group * job.depth + depth) * job.source.c;
      add(job, h, w, row, column, source, filter + depth * f.depth, step_r, step_s, sum);
    }
    store(job, h, w, sample, row, column, channel, sum);
  }

 private:
  // Adds the products of one channel of the source and its taps.
  static __device__ __forceinline__ void add(const CorrelateJob& job, const Line& h, const Line& w,
                                             int64_t row, int64_t column, const S* source,
                                             const S* filter, int64_t step_r, int64_t step_s,
                                             T (&sum)[kStrip][VECTOR]) {
    int y = static_cast<int>(h.base + row * h.step), x = static_cast<int>(w.base + column * w.step);
    int step_y = static_cast<int>(h.step), taps = static_cast<int>(w.taps);
    int tap_y = static_cast<int>(h.tap_step), tap_x = static_cast<int>(w.tap_step);
    for (int64_t r = 0; r < h.taps; ++r, y += tap_y) {
      const S* lines[kStrip];
#pragma unroll
      for (int i = 0; i < kStrip; ++i) {
        // Beyond the last position a coordinate shows nothing, not even by mirrors.
        int at = row + i < h.positions ? shown(h, y + i * step_y) : -1;
        lines[i] = at < 0 ? nullptr : source + at * job.source.h;
      }
      const S* factor = filter + r * step_r;
#pragma unroll(VECTOR == 1 ? 3 : 1)
      for (int s = 0; s < taps; ++s, factor += step_s) {
        int at = shown(w, x + s * tap_x);
        S factors[VECTOR], elements[kStrip][VECTOR];
        load(factor, factors);
        // All loads come before all sums: they are under way together. What padding shows as zeros
        // is read from an address of no matter.
#pragma unroll
        for (int i = 0; i < kStrip; ++i)
          load(lines[i] && at >= 0 ? lines[i] + at * job.source.w : factor, elements[i]);
#pragma unroll
        for (int i = 0; i < kStrip; ++i) {
          if (!lines[i] || at < 0) {
            if (!job.zeros_count) continue;
#pragma unroll
            for (int v = 0; v < VECTOR; ++v) elements[i][v] = S(0.f);
          }
#pragma unroll
          for (int v = 0; v < VECTOR; ++v) sum[i][v] += widen(factors[v]) * widen(elements[i][v]);
        }
      }
    }
  }

  static __device__ __forceinline__ void store(const CorrelateJob& job, const Line& h,
                                               const Line& w, int64_t sample, int64_t row,
                                               int64_t column, int64_t channel,
                                               T (&sum)[kStrip][VECTOR]) {
    int64_t first = sample * job.result.n + channel * job.result.c +
                    (w.position + column * w.position_step) * job.result.w;
#pragma unroll
    for (int v = 0; v < VECTOR; ++v) {
      if (!job.bias) break;
      T bias = widen(static_cast<const S*>(job.bias)[(channel + v) * job.bias_stride]);
#pragma unroll
      for (int i = 0; i < kStrip; ++i) sum[i][v] += bias;
    }
#pragma unroll
    for (int i = 0; i < kStrip; ++i) {
      if (row + i >= h.positions) break;
      int64_t at = first + (h.position + (row + i) * h.position_step) * job.result.h;
      if (job.wide_result) {
        cuda::store(sum[i], static_cast<T*>(job.result.data) + at);
      } else {
        S results[VECTOR];
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) narrow(sum[i][v], results[v]);
        cuda::store(results, static_cast<S*>(job.result.data) + at);
      }
    }
  }
};

template <class S, int LANES, int VECTOR>
__global__ void __launch_bounds__(kDirectThreads, 2)
    depthwise(const __grid_constant__ CorrelateJob job) {
  Depthwise<S, LANES, VECTOR>::run(job);
}

// correlate_weight for one channel a group, into its job's partial sums: [splits][segments][filters
// of all groups][taps]. A thread adds up some positions for kTaps taps of VECTOR filters; a block's
// threads of one filter then add theirs, in the order of a tree. With ONES for the input it sums
// channels.
template <class S, int LANES, int VECTOR, bool ONES>
struct DepthwiseWeight {
  using T = typename Compute<S>::type;
  using Shared = T[VECTOR][kDirectThreads];
  static constexpr int kTaps = ONES ? 1 : VECTOR == 8 ? 5 : 9;  // of 3x3, 5x5, 7x7 few are idle
  static constexpr int kPositions = kDirectThreads / LANES;

  static __device__ __forceinline__ void run(const WeightJob& job) {
    Digits digits{static_cast<int>(blockIdx.x)};
    int64_t channels = job.groups * job.filters * job.components;
    int64_t channel = int64_t{digits.next(job.row_tiles)} * LANES + threadIdx.x % LANES;
    channel *= VECTOR;
    int64_t first_tap = int64_t{digits.next(job.column_tiles)} * kTaps;
    int64_t segment = digits.next(job.segments), split = digits.rest;
    T sum[kTaps][VECTOR] = {};
    if (channel < channels) add(job, channel, first_tap, segment, split, sum);

    auto& shared = gpu::dynamic_shared<Shared>();
    int64_t taps = job.h.taps * job.w.taps;
    T* to = static_cast<T*>(job.partial) +
            ((split * job.segments + segment) * channels + channel) * taps + first_tap;
#pragma unroll  // a sum that a loop chose would be in local memory
    for (int t = 0; t < kTaps; ++t) {
      add_lanes(shared, sum[t]);
      if (threadIdx.x < LANES && channel < channels && first_tap + t < taps)
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) to[v * taps + t] = shared[v][threadIdx.x];
    }
  }

 private:
  static __device__ __forceinline__ void add(const WeightJob& job, int64_t channel,
                                             int64_t first_tap, int64_t segment, int64_t split,
                                             T (&sum)[kTaps][VECTOR]) {
    Patches<S> inputs{job.input, job.batch, 1, job.by_channels, job.h, job.w};
    Patches<S> grads{job.grad, job.batch, 1, job.by_filters, job.grad_h, job.grad_w};
    auto input = inputs.source(segment, channel / job.filters);
    const S* grad = grads.source(segment, 0).data + channel / job.components * job.grad.c +
                    channel % job.components;
    Place taps[kTaps];
#pragma unroll
    for (int t = 0; t < kTaps; ++t) taps[t] = inputs.term(first_tap + t);
    int64_t first = split * job.split_positions, end = grads.positions() - first;
    Position from = grads.position_of(first);
    if (end > job.split_positions) end = job.split_positions;
    for (uint32_t i = threadIdx.x / LANES; i < end; i += kPositions) {
      const S* factor = grad + grads.position(i, from).offset;
      S factors[VECTOR];
      load(factor, factors);
      if constexpr (ONES) {
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) sum[0][v] += widen(factors[v]);
      } else {
        // All loads first, as above.
        Place place = inputs.position(i, from);
        bool any[kTaps];
        S elements[kTaps][VECTOR];
#pragma unroll
        for (int t = 0; t < kTaps; ++t) {
          Shown<S> shown = input.find(place, taps[t]);
          any[t] = shown.any;
          load(shown.any ? shown.at : factor, elements[t]);
        }
#pragma unroll
        for (int t = 0; t < kTaps; ++t) {
          if (!any[t])
#pragma unroll
            for (int v = 0; v < VECTOR; ++v) elements[t][v] = S(0.f);
#pragma unroll
          for (int v = 0; v < VECTOR; ++v) sum[t][v] += widen(factors[v]) * widen(elements[t][v]);
        }
      }
    }
  }

  // For the first LANES threads, the sums over the threads of the same channels.
  static __device__ __forceinline__ void add_lanes(Shared& shared, const T (&values)[VECTOR]) {
    int thread = threadIdx.x;
    __syncthreads();
#pragma unroll
    for (int v = 0; v < VECTOR; ++v) shared[v][thread] = values[v];
    for (int half = kDirectThreads / 2; half >= LANES; half /= 2) {
      __syncthreads();
      if (thread < half)
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) shared[v][thread] += shared[v][thread + half];
    }
  }
};

template <class S, int LANES, int VECTOR, bool ONES>
__global__ void __launch_bounds__(kDirectThreads)
    depthwise_weight(const __grid_constant__ WeightJob job) {
  DepthwiseWeight<S, LANES, VECTOR, ONES>::run(job);
}

}  // namespace fullconv::cuda
