// The last step of full_convolve for padding that mirrors the input: an element of the input
// collects what it would get where it stands, and wherever the padding shows it.
//
// The convolution before it runs on the padded size with zeros around, into scratch of the compute
// type. Each thread adds for elements of its own, in a fixed order: no atomics.
#pragma once

#include "places.cuh"

namespace fullconv::cuda {

struct FoldJob {
  View padded, result;  // padded.data is in the compute type
  const void* bias;     // [channels], or null
  int64_t bias_stride;
  int64_t samples, channels, components;
  Axis h, w;  // of the result, and how it was padded
};

template <class S>
__global__ void __launch_bounds__(256) fold_padding(const __grid_constant__ FoldJob job) {
  using T = typename Compute<S>::type;
  bool channels_first = job.result.c != 1;
  int64_t count = job.samples * job.channels * job.components * job.h.size * job.w.size;
  int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    Digits digits{i};
    int64_t component = digits.next(job.components);
    int64_t channel = channels_first ? 0 : digits.next(job.channels);
    int64_t x = digits.next(job.w.size), y = digits.next(job.h.size);
    if (channels_first) channel = digits.next(job.channels);
    int64_t sample = digits.rest;

    const T* from = static_cast<const T*>(job.padded.data) + component + sample * job.padded.n +
                    channel * job.padded.c;
    T sum = 0;
    for_showing(job.h, y, [&](int64_t row) {
      for_showing(job.w, x, [&](int64_t column) {
        sum += from[(row + job.h.pad_before) * job.padded.h +
                    (column + job.w.pad_before) * job.padded.w];
      });
    });
    const S* bias = static_cast<const S*>(job.bias);
    if (bias) sum += widen(bias[channel * job.bias_stride + component]);
    narrow(sum, static_cast<S*>(
                    job.result.data)[component + sample * job.result.n + channel * job.result.c +
                                     y * job.result.h + x * job.result.w]);
  }
}

}  // namespace fullconv::cuda
