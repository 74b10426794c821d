// The contractions on a CUDA device, for tensors whose shapes have been checked: cpu/contractions.h
// with a stream.
//
// Every function only puts work on the stream. It returns null, or a sentence that says what is
// wrong. Results are the same bit for bit in every run and on every device of one architecture:
// sums are cut by shape alone and added in a fixed order.
#pragma once

#include <cstdint>
#include <functional>

#include "../arrays.h"

namespace fullconv::cuda {

struct Context {
  void* stream;     // a cudaStream_t of the current device
  bool allow_tf32;  // whether products of float32 may be taken on tensor cores, rounded to TF32
  // Device memory, aligned to 16 bytes, for work that is put on the stream during the call.
  std::function<void*(int64_t bytes)> allocate;
};

// result = correlation of input and filter (+ bias), with one filter for each of `segments` parts
// of the batch.
const char* correlate(const Context&, Dtype, const Geometry&, int64_t segments, const Array& input,
                      const Array& filter, const Array* bias, const Array& result);

// filter = correlation of input and grad.
const char* correlate_weight(const Context&, Dtype, const Geometry&, int64_t segments,
                             const Array& input, const Array& grad, const Array& filter);

// result = full convolution of grad and the rotated filter (+ bias).
const char* full_convolve(const Context&, Dtype, const Geometry&, int64_t segments,
                          const Array& grad, const Array& filter, const Array* bias,
                          const Array& result);

// result[k] = sum of grad over everything but its channels.
const char* channel_sum(const Context&, Dtype, const Array& grad, void* result);

}  // namespace fullconv::cuda
