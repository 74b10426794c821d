// The registered ops, for any device: their checks and their results. ops.cpp has the schemas.
//
// The integers between the tensors and the sizes are the geometry, in the order of ops.py's
// Geometry. Groups comes right behind the tensors, and no argument has a default: callers say all
// of it. Messages for users are functional.py's; the checks here keep a direct call of a raw op
// from touching memory it must not.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "arrays.h"
#include "tensors.h"

namespace fullconv {

inline Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Dtype::f32;
    case ScalarType::Double: return Dtype::f64;
    case ScalarType::BFloat16: return Dtype::bf16;
    case ScalarType::Half: return Dtype::f16;
    case ScalarType::ComplexFloat: return Dtype::c64;
    case ScalarType::ComplexDouble: return Dtype::c128;
    default: throw std::runtime_error("torch_fullconv: tensors must be floating point or complex");
  }
}

// A tensor's last four axes; a fifth before them is the segments'.
inline Array array_of(const Tensor& tensor) {
  int64_t skipped = tensor.dim() - 4;
  check(skipped == 0 || skipped == 1, "tensors must have four axes, filters four or five");
  auto sizes = tensor.sizes();
  auto strides = tensor.strides();
  Array array{data_of(tensor), {}, {}, skipped ? strides[0] : 0};
  for (int64_t axis = 0; axis < 4; ++axis) {
    array.size[axis] = sizes[axis + skipped];
    array.stride[axis] = strides[axis + skipped];
  }
  return array;
}

struct Layer {
  int64_t groups, stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h,
      dilation_w, padding_mode, algorithm, allow_tf32;

  // Bounds far above any tensor, so that sums and products of a few stay below 2^63. A stride
  // beyond the padded input, which leaves one output, is as good as one at its end; zeros behind
  // the input may be fewer than none, which leaves the input's end out.
  Axis axis(int64_t size, int64_t kernel, int64_t stride, int64_t before, int64_t after,
            int64_t dilation) const {
    constexpr int64_t most = int64_t{1} << 40;
    check(padding_mode >= 0 && padding_mode <= 3, "unknown padding mode");
    Padding padding = static_cast<Padding>(padding_mode);
    int64_t least = padding == Padding::zeros ? -size : 0;
    check(size < (most << 20), "sizes must be smaller");
    check(stride > 0 && dilation > 0, "stride and dilation must be positive");
    check(before >= 0 && after >= least, "padding must not be negative");
    int64_t reach;
    check(kernel > 0, "the kernel must not be empty");
    check(before < most && after < most && !__builtin_mul_overflow(dilation, kernel - 1, &reach) &&
              reach < (most << 20),
          "padding and dilation must be smaller");
    if (padding == Padding::reflect || padding == Padding::circular) {
      int64_t shown = padding == Padding::reflect ? size - 1 : size;
      check(before <= shown && after <= shown, "padding is larger than the input shows");
    }
    check(padding == Padding::zeros || size > 0, "there is no input to pad with");
    int64_t padded = std::max<int64_t>(size + before + after, 1);
    return {size, kernel, std::min(stride, padded), before, after, dilation, padding};
  }

  Geometry at(int64_t height, int64_t width, int64_t r, int64_t s) const {
    check(groups > 0, "groups must be positive");
    check(algorithm >= 0 && algorithm <= 2, "unknown algorithm");
    return {groups, axis(height, r, stride_h, pad_top, pad_bottom, dilation_h),
            axis(width, s, stride_w, pad_left, pad_right, dilation_w),
            static_cast<Algorithm>(algorithm), allow_tf32 != 0};
  }
};

inline int64_t segments_of(const Tensor& filter, int64_t batch) {
  int64_t segments = filter.dim() == 5 ? filter.size(0) : 1;
  check(segments > 0 ? batch % segments == 0 : batch == 0,
        "the batch must fall into equal segments");
  return segments;
}

inline void check_outputs(const Geometry& geometry, const Array& grad) {
  check(grad.size[2] == geometry.h.outputs() && grad.size[3] == geometry.w.outputs(),
        "the output gradient must have the output's size");
}

#define FULLCONV_LAYER                                                                     \
  int64_t groups, int64_t stride_h, int64_t stride_w, int64_t pad_top, int64_t pad_bottom, \
      int64_t pad_left, int64_t pad_right, int64_t dilation_h, int64_t dilation_w,         \
      int64_t padding_mode, int64_t algorithm, int64_t allow_tf32
#define FULLCONV_LAYER_VALUES                                                                     \
  Layer {                                                                                         \
    groups, stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w, \
        padding_mode, algorithm, allow_tf32                                                       \
  }

// A forward pass that fits together, with its output still empty.
struct Forward {
  Dtype dtype;
  Array x, f;
  Geometry geometry;
  int64_t segments;
  Tensor output;
};

template <class Device>
void check_like(const Tensor& tensor, const Tensor& first) {
  check(tensor.scalar_type() == first.scalar_type(), "tensors must have one dtype");
  check(Device::holds(tensor, first), Device::where);
}

// The ops of one kind of device. A Device tells which tensors are on it, is made of the first one
// when all has been checked, and has the contractions of cpu/contractions.h.
template <class Device>
struct Ops {
  static std::optional<Array> array_of_bias(const std::optional<Tensor>& bias, const Tensor& first,
                                            int64_t channels) {
    if (!bias) return std::nullopt;
    check_like<Device>(*bias, first);
    check(bias->dim() == 1 && bias->size(0) == channels,
          "the bias must have one element a channel");
    return Array{data_of(*bias), {channels}, {bias->stride(0)}, 0};
  }

  static Forward make_forward(const Tensor& input, const Tensor& filter, const Layer& layer) {
    Dtype dtype = dtype_of(input);
    check_like<Device>(filter, input);
    check_like<Device>(input, input);
    Array x = array_of(input), f = array_of(filter);
    Geometry geometry = layer.at(x.size[2], x.size[3], f.size[2], f.size[3]);
    check(
        input.dim() == 4 && x.size[1] == f.size[1] * layer.groups && f.size[0] % layer.groups == 0,
        "channels must fit the filter and groups");
    int64_t segments = segments_of(filter, x.size[0]);
    Tensor output = empty({x.size[0], f.size[0], geometry.h.outputs(), geometry.w.outputs()}, input,
                          {&input, &filter});
    return {dtype, x, f, geometry, segments, output};
  }

  static Tensor correlate(Tensor input, Tensor filter, std::optional<Tensor> bias, FULLCONV_LAYER) {
    Forward t = make_forward(input, filter, FULLCONV_LAYER_VALUES);
    std::optional<Array> b = array_of_bias(bias, input, t.f.size[0]);
    if (t.output.numel() == 0) return t.output;
    Device(input).correlate(t.dtype, t.geometry, t.segments, t.x, t.f, b ? &*b : nullptr,
                            array_of(t.output));
    return t.output;
  }

  static Tensor full_convolve(Tensor grad, Tensor filter, std::optional<Tensor> bias,
                              FULLCONV_LAYER, int64_t height, int64_t width) {
    Dtype dtype = dtype_of(grad);
    check_like<Device>(grad, grad);
    check_like<Device>(filter, grad);
    Array g = array_of(grad), f = array_of(filter);
    check(height >= 0 && width >= 0, "sizes must not be negative");
    Geometry geometry = FULLCONV_LAYER_VALUES.at(height, width, f.size[2], f.size[3]);
    check(grad.dim() == 4 && g.size[1] == f.size[0] && f.size[0] % groups == 0,
          "channels must fit the filter and groups");
    check_outputs(geometry, g);
    int64_t segments = segments_of(filter, g.size[0]);
    std::optional<Array> b = array_of_bias(bias, grad, f.size[1] * groups);
    Tensor input = empty({g.size[0], f.size[1] * groups, height, width}, grad, {&grad, &filter});
    if (input.numel() == 0) return input;
    Device(grad).full_convolve(dtype, geometry, segments, g, f, b ? &*b : nullptr, array_of(input));
    return input;
  }

  static Tensor correlate_weight(Tensor input, Tensor grad, FULLCONV_LAYER, int64_t kernel_r,
                                 int64_t kernel_s, std::optional<int64_t> segments) {
    Dtype dtype = dtype_of(input);
    check_like<Device>(input, input);
    check_like<Device>(grad, input);
    Array x = array_of(input), g = array_of(grad);
    Geometry geometry = FULLCONV_LAYER_VALUES.at(x.size[2], x.size[3], kernel_r, kernel_s);
    check(input.dim() == 4 && grad.dim() == 4 && x.size[0] == g.size[0],
          "input and output gradient must have one batch");
    check(x.size[1] % groups == 0 && g.size[1] % groups == 0, "channels must fit the groups");
    check_outputs(geometry, g);
    std::vector<int64_t> shape{g.size[1], x.size[1] / groups, kernel_r, kernel_s};
    if (segments) {
      check(*segments > 0 ? x.size[0] % *segments == 0 : *segments == 0 && x.size[0] == 0,
            "the batch must fall into equal segments");
      shape.insert(shape.begin(), *segments);
    }
    Tensor filter = empty(shape, input, {&input, &grad});
    if (filter.numel() == 0) return filter;
    if (input.numel() == 0 || grad.numel() == 0) return torch::stable::zero_(filter);
    Device(input).correlate_weight(dtype, geometry, segments.value_or(1), x, g, array_of(filter));
    return filter;
  }

  static std::tuple<Tensor, Tensor> gradients(Tensor input, Tensor filter, Tensor grad,
                                              FULLCONV_LAYER) {
    Dtype dtype = dtype_of(input);
    check_like<Device>(input, input);
    check_like<Device>(filter, input);
    check_like<Device>(grad, input);
    Array x = array_of(input), f = array_of(filter), g = array_of(grad);
    Geometry geometry = FULLCONV_LAYER_VALUES.at(x.size[2], x.size[3], f.size[2], f.size[3]);
    check(input.dim() == 4 && x.size[1] == f.size[1] * groups && f.size[0] % groups == 0,
          "channels must fit the filter and groups");
    check(grad.dim() == 4 && g.size[0] == x.size[0] && g.size[1] == f.size[0],
          "the output gradient must have the output's size");
    check_outputs(geometry, g);
    int64_t segments = segments_of(filter, x.size[0]);
    Tensor for_input = empty({x.size, x.size + 4}, input, {&input, &filter});
    std::vector<int64_t> shape(filter.sizes().begin(), filter.sizes().end());
    Tensor for_filter = empty(shape, input, {&input, &filter});
    Device device(input);
    if (for_input.numel() > 0)
      device.full_convolve(dtype, geometry, segments, g, f, nullptr, array_of(for_input));
    if (input.numel() == 0 || grad.numel() == 0)
      torch::stable::zero_(for_filter);
    else
      device.correlate_weight(dtype, geometry, segments, x, g, array_of(for_filter));
    return {for_input, for_filter};
  }

  static Tensor channel_sum(Tensor grad) {
    Dtype dtype = dtype_of(grad);
    check_like<Device>(grad, grad);
    check(grad.dim() == 4, "the output gradient must have four axes");
    Tensor sum = empty({grad.size(1)}, grad, {});
    Device(grad).channel_sum(dtype, array_of(grad), sum.data_ptr());
    return sum;
  }
};

// Registers a device's ops with a STABLE_TORCH_LIBRARY_IMPL.
template <class Device>
void implement(auto& library) {
  library.impl("correlate", TORCH_BOX(&Ops<Device>::correlate));
  library.impl("full_convolve", TORCH_BOX(&Ops<Device>::full_convolve));
  library.impl("correlate_weight", TORCH_BOX(&Ops<Device>::correlate_weight));
  library.impl("gradients", TORCH_BOX(&Ops<Device>::gradients));
  library.impl("channel_sum", TORCH_BOX(&Ops<Device>::channel_sum));
}

}  // namespace fullconv
