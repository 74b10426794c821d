// Tensors as kernels see them: scalars, whose strides count real numbers also for complex tensors.
#pragma once

#include "arrays.h"

namespace fullconv {

inline int64_t scalar_size(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
    case Dtype::c128: return 8;
    case Dtype::f32:
    case Dtype::c64: return 4;
    case Dtype::bf16:
    case Dtype::f16: return 2;
  }
  return 0;
}

inline int64_t components_of(Dtype dtype) {
  return dtype == Dtype::c64 || dtype == Dtype::c128 ? 2 : 1;
}

inline View view(const Array& array, int64_t components) {
  const int64_t* stride = array.stride;
  return {array.data, stride[0] * components, stride[1] * components, stride[2] * components,
          stride[3] * components};
}

// The filter with its own K as rows, C as depth.
inline FilterView view_filter(const Array& filter, int64_t components, int64_t groups) {
  int64_t k = filter.stride[0] * components;
  return {filter.data,
          filter.segment_stride * components,
          filter.size[0] / groups * k,
          k,
          filter.stride[1] * components,
          filter.stride[2] * components,
          filter.stride[3] * components};
}

// A kernel as large as its input meets it at one position only: that is a 1x1 kernel over channels
// that count all of a sample's elements, if input and filter have them in the same order.
inline bool flatten(Geometry& geometry, Array& input, Array& filter) {
  for (const Axis* axis : {&geometry.h, &geometry.w})
    if (axis->size != axis->kernel || axis->pad_before != 0 || axis->pad_after != 0 ||
        axis->dilation > 1)
      return false;
  int64_t c = input.size[1], h = geometry.h.size, w = geometry.w.size;
  if (geometry.groups > 1 || h * w == 1) return false;
  auto lies = [](const Array& array, int64_t c_stride, int64_t h_stride, int64_t w_stride) {
    return array.stride[1] == c_stride && array.stride[2] == h_stride &&
           array.stride[3] == w_stride;
  };
  bool planes = lies(input, h * w, w, 1) && lies(filter, h * w, w, 1);
  bool channels_last = lies(input, 1, w * c, c) && lies(filter, 1, w * c, c);
  if (!planes && !channels_last) return false;
  for (Array* array : {&input, &filter}) {
    array->size[1] = c * h * w;
    array->size[2] = array->size[3] = array->stride[1] = 1;
  }
  for (Axis* axis : {&geometry.h, &geometry.w})
    axis->size = axis->kernel = axis->stride = 1, axis->padding = Padding::zeros;
  return true;
}

// The columns of a strided filter as channels, where they meet no padding: in channels_last of
// patches, or of single columns, with the channels of a pixel; in NCHW alone, if there are more of
// them than channels. The rows of all planes are one axis then, on which each has the kernel's
// rows.
inline bool columns_as_channels(Geometry& geometry, Array& input, Array& filter) {
  Axis &h = geometry.h, &w = geometry.w;
  if (geometry.groups > 1 || input.size[1] == 0 || w.stride == 1 ||
      (w.kernel > 1 && w.dilation > 1) || w.pad_before != 0 || w.pad_after != 0)
    return false;
  int64_t c = input.size[1];
  auto lie = [&](int64_t channel_of_input, int64_t channel_of_filter, int64_t column) {
    return input.stride[3] == column && (w.kernel == 1 || filter.stride[3] == column) &&
           (c == 1 ||
            (input.stride[1] == channel_of_input && filter.stride[1] == channel_of_filter));
  };
  bool channels_last = c > 1 && w.stride >= w.kernel && lie(1, 1, c);
  bool planes = c < w.kernel && h.pad_before == 0 && h.pad_after == 0 &&
                lie(h.size * input.stride[2], h.kernel * filter.stride[2], 1);
  if (!channels_last && !planes) return false;
  int64_t columns = w.outputs(), channels = channels_last ? c : 1;
  if (!channels_last) {
    h.planes = c;
    filter.size[2] *= c;
  }
  for (Array* array : {&input, &filter}) {
    array->size[1] = channels * w.kernel;
    array->stride[1] = 1;
  }
  input.size[3] = columns, input.stride[3] = w.stride * channels;
  filter.size[3] = 1, filter.stride[3] = channels * w.kernel;
  w = {columns, 1, 1, 0, 0, 1, Padding::zeros};
  return true;
}

}  // namespace fullconv
