// The registered ops of ReLU and pooling, for any device: their checks and their results, as ops.h.
//
// The integers are the window's geometry, in the order of pool_ops.py's Windows, and for averages
// what they divide by.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "ops.h"
#include "strided.h"
#include "windows.h"

namespace fullconv {

inline Element element_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Element::f32;
    case ScalarType::Double: return Element::f64;
    case ScalarType::BFloat16: return Element::bf16;
    case ScalarType::Half: return Element::f16;
    case ScalarType::Char: return Element::i8;
    case ScalarType::Byte: return Element::u8;
    case ScalarType::Short: return Element::i16;
    case ScalarType::Int: return Element::i32;
    case ScalarType::Long: return Element::i64;
    default: throw std::runtime_error("torch_fullconv: tensors must be floating point or integer");
  }
}

inline std::vector<int64_t> sizes_of(const Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

// An empty tensor of the same dtype, size and memory layout.
inline Tensor empty_as(const Tensor& tensor) {
  if (!tensor.is_contiguous()) return torch::stable::empty_like(tensor);
  return empty_strided(sizes_of(tensor), {tensor.strides().begin(), tensor.strides().end()},
                       tensor.scalar_type(), tensor);
}

inline Strided strided(const Tensor& tensor) {
  return {data_of(tensor), {tensor.strides().begin(), tensor.strides().end()}};
}

inline Array image_of(const Tensor& tensor) {
  check(tensor.dim() == 4, "tensors must have four axes");
  return array_of(tensor);
}

struct Windows {
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, ceil_mode;

  // Bounds far above any tensor, so that sums and products of a few stay below 2^63.
  static Window axis(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation,
                     bool ceil_mode) {
    constexpr int64_t most = int64_t{1} << 40;
    check(size >= 0 && size < (most << 20), "sizes must not be negative, and smaller");
    check(kernel > 0 && stride > 0 && dilation > 0, "kernel, stride and dilation must be positive");
    check(pad >= 0 && kernel < most && pad < most && dilation < most,
          "padding must not be negative, and all must be smaller");
    int64_t reach;
    check(!__builtin_mul_overflow(dilation, kernel - 1, &reach) && reach < (most << 20),
          "kernel and dilation must be smaller");
    int64_t padded = std::max<int64_t>(size + 2 * pad, 1);  // such a stride leaves one window
    Window window{size, kernel, std::min(stride, padded), pad, dilation, ceil_mode};
    check(window.outputs() > 0, "the window must fit into the padded input");
    return window;
  }

  // Windows over an image; kernels tell elements of one apart by 31 bits.
  Pool over(int64_t height, int64_t width, bool count_include_pad, int64_t divisor) const {
    Pool pool{axis(height, kernel_h, stride_h, pad_h, dilation_h, ceil_mode != 0),
              axis(width, kernel_w, stride_w, pad_w, dilation_w, ceil_mode != 0), count_include_pad,
              divisor};
    constexpr int64_t most = int64_t{1} << 31;
    int64_t rows = std::min(pool.h.reach(), height) + 1;
    check(width < most && rows <= (most - 1) / std::max<int64_t>(width, 1),
          "a window must span fewer than 2^31 elements of a plane");
    return pool;
  }
};

#define FULLCONV_WINDOWS                                                                 \
  int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w, int64_t pad_h, \
      int64_t pad_w, int64_t dilation_h, int64_t dilation_w, int64_t ceil_mode
#define FULLCONV_WINDOWS_VALUES                                                             \
  Windows {                                                                                 \
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, ceil_mode \
  }

// The ops of one kind of device, which is as that of ops.h and has the layers of cpu/layers.h.
template <class Device>
struct PoolOps {
  static Tensor relu(Tensor input) {
    check_like<Device>(input, input);
    Element element = element_of(input);
    Tensor result = empty_as(input);
    Device(input).relu(element, sizes_of(input), strided(input), nullptr, strided(result));
    return result;
  }

  static void relu_(Tensor input) {
    check_like<Device>(input, input);
    Strided in_place = strided(input);
    Device(input).relu(element_of(input), sizes_of(input), in_place, nullptr, in_place);
  }

  static Tensor relu_grad(Tensor grad, Tensor output) {
    check_like<Device>(output, output);
    check_like<Device>(grad, output);
    check(sizes_of(grad) == sizes_of(output), "the output gradient must have the output's size");
    Element element = element_of(output);
    Tensor result = empty_as(output);
    Strided given = strided(grad);
    Device(output).relu(element, sizes_of(output), strided(output), &given, strided(result));
    return result;
  }

  static Tensor max_pool2d(Tensor input, FULLCONV_WINDOWS) {
    check_like<Device>(input, input);
    Array x = image_of(input);
    Pool pool = FULLCONV_WINDOWS_VALUES.over(x.size[2], x.size[3], false, 0);
    Element element = element_of(input);
    Tensor output = empty_output(input, pool, input.scalar_type());
    Device(input).pool(element, Pooling::max, pool, x, nullptr, image_of(output));
    return output;
  }

  static std::tuple<Tensor, Tensor> max_pool2d_indices(Tensor input, FULLCONV_WINDOWS) {
    check_like<Device>(input, input);
    Array x = image_of(input);
    Pool pool = FULLCONV_WINDOWS_VALUES.over(x.size[2], x.size[3], false, 0);
    Element element = element_of(input);
    Tensor output = empty_output(input, pool, input.scalar_type());
    Tensor indices = empty_output(input, pool, ScalarType::Long);
    Array chosen = image_of(indices);
    Device(input).pool(element, Pooling::max_indices, pool, x, &chosen, image_of(output));
    return {output, indices};
  }

  static Tensor max_gather(Tensor input, Tensor indices, FULLCONV_WINDOWS) {
    check_like<Device>(input, input);
    check_indices(indices, input);
    Array x = image_of(input), chosen = image_of(indices);
    Pool pool = FULLCONV_WINDOWS_VALUES.over(x.size[2], x.size[3], false, 0);
    check_output(chosen, x, pool);
    Element element = element_of(input);
    Tensor output = empty_output(input, pool, input.scalar_type());
    Device(input).pool(element, Pooling::max_gather, pool, x, &chosen, image_of(output));
    return output;
  }

  // The adjoints: from an output gradient to the input's, in the memory format of the indices, or
  // where there are none of the gradient.
  static Tensor max_scatter(Tensor grad, Tensor indices, FULLCONV_WINDOWS, int64_t height,
                            int64_t width) {
    check_like<Device>(grad, grad);
    check_indices(indices, grad);
    Array g = image_of(grad), chosen = image_of(indices);
    Pool pool = FULLCONV_WINDOWS_VALUES.over(height, width, false, 0);
    check_output(g, g, pool);
    check_output(chosen, g, pool);
    Element element = element_of(grad);
    Tensor input = empty({g.size[0], g.size[1], height, width}, grad, {&indices});
    Device(grad).pool(element, Pooling::max_scatter, pool, g, &chosen, image_of(input));
    return input;
  }

  static Tensor avg_pool2d(Tensor input, FULLCONV_WINDOWS, bool count_include_pad,
                           int64_t divisor) {
    check_like<Device>(input, input);
    Array x = image_of(input);
    Pool pool = FULLCONV_WINDOWS_VALUES.over(x.size[2], x.size[3], count_include_pad, divisor);
    check_average(pool);
    Element element = element_of(input);
    Tensor output = empty_output(input, pool, input.scalar_type());
    Device(input).pool(element, Pooling::average, pool, x, nullptr, image_of(output));
    return output;
  }

  static Tensor avg_pool2d_adjoint(Tensor grad, FULLCONV_WINDOWS, bool count_include_pad,
                                   int64_t divisor, int64_t height, int64_t width) {
    check_like<Device>(grad, grad);
    Array g = image_of(grad);
    Pool pool = FULLCONV_WINDOWS_VALUES.over(height, width, count_include_pad, divisor);
    check_average(pool);
    check_output(g, g, pool);
    Element element = element_of(grad);
    Tensor input = empty({g.size[0], g.size[1], height, width}, grad, {&grad});
    Device(grad).pool(element, Pooling::average_adjoint, pool, g, nullptr, image_of(input));
    return input;
  }

 private:
  static void check_indices(const Tensor& indices, const Tensor& first) {
    check(indices.scalar_type() == ScalarType::Long, "indices must be 64-bit integers");
    check(Device::holds(indices, first), Device::where);
  }

  static void check_output(const Array& tensor, const Array& input, const Pool& pool) {
    check(tensor.size[0] == input.size[0] && tensor.size[1] == input.size[1] &&
              tensor.size[2] == pool.h.outputs() && tensor.size[3] == pool.w.outputs(),
          "indices and gradients must have the output's size");
  }

  static void check_average(const Pool& pool) {
    check(pool.h.dilation == 1 && pool.w.dilation == 1, "averages have no dilation");
    bool counted = pool.count_include_pad || pool.divisor != 0;
    check(counted || (pool.h.pad < pool.h.kernel && pool.w.pad < pool.w.kernel),
          "a window must meet the input, whose elements are counted");
  }

  // The layer's output, in the input's memory format, with the result still empty.
  static Tensor empty_output(const Tensor& input, const Pool& pool, ScalarType dtype) {
    return empty({input.size(0), input.size(1), pool.h.outputs(), pool.w.outputs()}, dtype, input,
                 is_channels_last(input));
  }
};

// Registers a device's ops with a STABLE_TORCH_LIBRARY_IMPL.
template <class Device>
void implement_pooling(auto& library) {
  library.impl("relu", TORCH_BOX(&PoolOps<Device>::relu));
  library.impl("relu_", TORCH_BOX(&PoolOps<Device>::relu_));
  library.impl("relu_grad", TORCH_BOX(&PoolOps<Device>::relu_grad));
  library.impl("max_pool2d", TORCH_BOX(&PoolOps<Device>::max_pool2d));
  library.impl("max_pool2d_indices", TORCH_BOX(&PoolOps<Device>::max_pool2d_indices));
  library.impl("max_gather", TORCH_BOX(&PoolOps<Device>::max_gather));
  library.impl("max_scatter", TORCH_BOX(&PoolOps<Device>::max_scatter));
  library.impl("avg_pool2d", TORCH_BOX(&PoolOps<Device>::avg_pool2d));
  library.impl("avg_pool2d_adjoint", TORCH_BOX(&PoolOps<Device>::avg_pool2d_adjoint));
}

}  // namespace fullconv
