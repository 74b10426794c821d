// ReLU and its gradient, element by element: x is kept unless it is below 0, and so is a gradient
// unless the output is at most 0. That leaves -0 and NaN as they are and lets a NaN's gradient
// pass, as stock does.
//
// Memory bounds it: each thread takes 16 bytes where all operands lie without gaps, in any order of
// axes that they share, else one element, whose place it works out.
#pragma once

#include "elements.cuh"

namespace fullconv::cuda {

constexpr int kMostAxes = 25;  // as many as stock takes

struct ReluJob {
  const void *x, *grad;  // grad is null for relu
  void* result;
  int64_t elements;
  int axes;  // from the outermost on; without gaps there is one
  Divider size[kMostAxes];
  int64_t x_stride[kMostAxes], grad_stride[kMostAxes], result_stride[kMostAxes];
};

template <class S>
__device__ __forceinline__ S rectify(S x) {
  return widen(x) < 0 ? S{} : x;
}
template <class S>
__device__ __forceinline__ S mask(S x, S grad) {
  return widen(x) <= 0 ? S{} : grad;
}

template <class S, int VECTOR>
__global__ void __launch_bounds__(kElementThreads)
    relu_elements(const __grid_constant__ ReluJob job) {
  const S *x = static_cast<const S*>(job.x), *grad = static_cast<const S*>(job.grad);
  S* result = static_cast<S*>(job.result);
  int64_t first = (int64_t{blockIdx.x} * kElementThreads + threadIdx.x) * VECTOR;
  if (first + VECTOR > job.elements) {
    if constexpr (VECTOR > 1)
      for (int64_t i = first; i < job.elements; ++i)
        result[i] = grad ? mask(x[i], grad[i]) : rectify(x[i]);
    return;
  }
  if constexpr (VECTOR > 1) {
    x += first, grad += grad ? first : 0, result += first;
  } else {
    Digits digits{static_cast<uint32_t>(first)};
    for (int axis = job.axes - 1; axis >= 0; --axis) {
      int64_t at = axis > 0 ? digits.next(job.size[axis]) : digits.rest;
      x += at * job.x_stride[axis];
      grad += grad ? at * job.grad_stride[axis] : 0;
      result += at * job.result_stride[axis];
    }
  }
  S values[VECTOR], grads[VECTOR];
  load(x, values);
  if (grad) load(grad, grads);
#pragma unroll
  for (int i = 0; i < VECTOR; ++i)
    values[i] = grad ? mask(values[i], grads[i]) : rectify(values[i]);
  store(values, result);
}

}  // namespace fullconv::cuda
