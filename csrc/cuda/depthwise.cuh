// Layers whose groups have few channels, of which a tile of rows would be nearly empty: every
// thread sums for elements of its own. Memory bounds them, so what counts is that neighbouring
// threads read neighbouring elements: LANES of a block's threads take channels, the others
// positions.
#pragma once

#include "correlate.cuh"
#include "correlate_weight.cuh"

namespace fullconv::cuda {

constexpr int kDirectThreads = 256;

// correlate and full_convolve. A thread's results are kResults positions of one channel, so that a
// filter's element is read once for them.
template <class S, int LANES>
struct Depthwise {
  using T = typename Compute<S>::type;
  static constexpr int kResults = 4, kPositions = kDirectThreads / LANES;

  static __device__ __forceinline__ void run(const CorrelateJob& job) {
    Digits digits{static_cast<int>(blockIdx.x)};
    int64_t channel = int64_t{digits.next(job.row_tiles)} * LANES + threadIdx.x % LANES;
    int64_t position = int64_t{digits.next(job.position_tiles)} * (kPositions * kResults);
    position += threadIdx.x / LANES;
    int phase_w = digits.next(job.w.count), phase_h = digits.next(job.h.count);
    int64_t segment = digits.rest;
    if (channel >= job.groups * job.rows) return;
    const Progression &h = job.h.axis[phase_h], &w = job.w.axis[phase_w];
    int64_t group = channel / job.rows;
    Patches<S> patches{job.source, job.batch, job.depth, 1, h, w};
    Source<S> source = patches.source(segment, group);
    Place places[kResults];
#pragma unroll
    for (int i = 0; i < kResults; ++i) places[i] = patches.position(position + i * kPositions);

    const FilterView& f = job.unpacked;
    const S* filter = static_cast<const S*>(f.data) + segment * f.segment + group * f.group +
                      channel % job.rows * f.row + h.tap * f.r + w.tap * f.s;
    T sum[kResults] = {};
    for (int64_t depth = 0; depth < job.depth; ++depth)
      for (int64_t r = 0; r < h.taps; ++r)
        for (int64_t s = 0; s < w.taps; ++s) {
          T factor =
              widen(filter[depth * f.depth + r * h.tap_stride * f.r + s * w.tap_stride * f.s]);
          Place tap = patches.tap(depth, r, s);
#pragma unroll
          for (int i = 0; i < kResults; ++i) {
            int64_t offset = source.find(places[i], tap);
            if (offset >= 0 || job.zeros_count)
              sum[i] += factor * (offset < 0 ? T(0) : widen(source.data[offset]));
          }
        }
    T bias = job.bias ? widen(static_cast<const S*>(job.bias)[channel * job.bias_stride]) : T(0);
#pragma unroll
    for (int i = 0; i < kResults; ++i) {
      int64_t offset = result_offset(job, patches, segment, position + i * kPositions);
      if (offset >= 0) store_result<S>(job, offset + channel * job.result.c, sum[i] + bias);
    }
  }
};

template <class S, int LANES>
__global__ void __launch_bounds__(kDirectThreads, 2)
    depthwise(const __grid_constant__ CorrelateJob job) {
  Depthwise<S, LANES>::run(job);
}

// correlate_weight for one channel a group, into its job's partial sums: [splits][segments][filters
// of all groups][taps]. A thread adds up some positions for kTaps taps; a block's threads of one
// channel then add theirs, in the order of a tree. With ONES for the input it sums channels.
template <class S, int LANES, bool ONES>
struct DepthwiseWeight {
  using T = typename Compute<S>::type;
  static constexpr int kTaps = ONES ? 1 : 8, kPositions = kDirectThreads / LANES;

  static __device__ __forceinline__ void run(const WeightJob& job) {
    Digits digits{static_cast<int>(blockIdx.x)};
    int64_t channels = job.groups * job.filters * job.components;
    int64_t channel = int64_t{digits.next(job.row_tiles)} * LANES + threadIdx.x % LANES;
    int64_t first_tap = int64_t{digits.next(job.column_tiles)} * kTaps;
    int64_t segment = digits.next(job.segments), split = digits.rest;
    T sum[kTaps] = {};
    if (channel < channels) add(job, channel, first_tap, segment, split, sum);

    T* shared = &gpu::dynamic_shared<T>();
    int64_t taps = job.h.taps * job.w.taps;
    for (int t = 0; t < kTaps; ++t) {
      T total = add_lanes(shared, sum[t]);
      if (threadIdx.x < LANES && channel < channels && first_tap + t < taps)
        static_cast<T*>(
            job.partial)[((split * job.segments + segment) * channels + channel) * taps +
                         first_tap + t] = total;
    }
  }

 private:
  static __device__ __forceinline__ void add(const WeightJob& job, int64_t channel,
                                             int64_t first_tap, int64_t segment, int64_t split,
                                             T (&sum)[kTaps]) {
    Patches<S> inputs{job.input, job.batch, 1, 1, job.h, job.w};
    Patches<S> grads{job.grad, job.batch, 1, 1, job.grad_h, job.grad_w};
    Source<S> input = inputs.source(segment, channel / job.filters);
    const S* grad = grads.source(segment, 0).data + channel / job.components * job.grad.c +
                    channel % job.components;
    Place taps[kTaps];
#pragma unroll
    for (int t = 0; t < kTaps; ++t) taps[t] = inputs.term(first_tap + t);
    int64_t end = (split + 1) * job.split_positions;
    if (end > grads.positions()) end = grads.positions();
    for (int64_t i = split * job.split_positions + threadIdx.x / LANES; i < end; i += kPositions) {
      T factor = widen(grad[grads.position(i).offset]);
      Place place = inputs.position(i);
#pragma unroll
      for (int t = 0; t < kTaps; ++t)
        if constexpr (ONES) {
          sum[t] += factor;
        } else {
          int64_t offset = input.find(place, taps[t]);
          sum[t] += factor * (offset < 0 ? T(0) : widen(input.data[offset]));
        }
    }
  }

  // The sum over the threads of the same channel, for the first of them.
  static __device__ __forceinline__ T add_lanes(T* shared, T value) {
    int thread = threadIdx.x;
    __syncthreads();
    shared[thread] = value;
    for (int half = kDirectThreads / 2; half >= LANES; half /= 2) {
      __syncthreads();
      if (thread < half) shared[thread] += shared[thread + half];
    }
    return shared[thread];
  }
};

template <class S, int LANES, bool ONES>
__global__ void __launch_bounds__(kDirectThreads)
    depthwise_weight(const __grid_constant__ WeightJob job) {
  DepthwiseWeight<S, LANES, ONES>::run(job);
}

}  // namespace fullconv::cuda
