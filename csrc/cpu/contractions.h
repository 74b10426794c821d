// The three contractions on the CPU, for tensors whose shapes have been checked.
#pragma once

#include <cstdint>
#include <string>

#include "../arrays.h"

namespace fullconv::cpu {

// result = correlation of input and filter (+ bias), with one filter for each of `segments` parts
// of the batch.
void correlate(Dtype, const Geometry&, int64_t segments, const Array& input, const Array& filter,
               const Array* bias, const Array& result);

// filter = correlation of input and grad.
void correlate_weight(Dtype, const Geometry&, int64_t segments, const Array& input,
                      const Array& grad, const Array& filter);

// result = full convolution of grad and the rotated filter (+ bias).
void full_convolve(Dtype, const Geometry&, int64_t segments, const Array& grad, const Array& filter,
                   const Array* bias, const Array& result);

// The names of the ways that the three contractions of a layer go.
struct Ways {
  std::string correlate, full_convolve, correlate_weight;
};
Ways ways(Dtype, const Geometry&, int64_t segments, const Array& input, const Array& filter,
          const Array& output);

// result[k] = sum of grad over everything but its channels.
void channel_sum(Dtype, const Array& grad, void* result);

}  // namespace fullconv::cpu
