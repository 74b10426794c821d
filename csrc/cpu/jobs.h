// Contractions of arrays as the engine's jobs, with what the choice of a way is to add still empty.
#pragma once

#include "../views.h"
#include "engine.h"

namespace fullconv::cpu {

// A single channel has stride 1, whatever the tensor says, so that tensors of the same elements are
// the same to a way, and to the choice among them.
inline View view_of(Array array, int64_t components) {
  if (array.size[1] == 1) array.stride[1] = 1;
  return view(array, components);
}

// Channels beside each other, and more than one: the micro-kernel's vectors run along them.
inline bool channels_last(const Array& array) { return array.stride[1] == 1 && array.size[1] > 1; }

inline CorrelateJob make_job(Dtype dtype, const Geometry& geometry, int64_t segments,
                             const Array& source, const Array* bias, const Array& result) {
  int64_t components = components_of(dtype);
  CorrelateJob job{};
  job.source = view_of(source, components);
  job.result = view_of(result, components);
  job.bias = bias ? bias->data : nullptr;
  job.bias_stride = bias ? bias->stride[0] * components : 0;
  job.batch = segments > 0 ? source.size[0] / segments : 0;
  job.segments = segments;
  job.groups = geometry.groups;
  job.depth = source.size[1] / geometry.groups;
  job.rows = result.size[1] / geometry.groups;
  job.components = components;
  job.rows_along_vectors = channels_last(result);
  job.algorithm = geometry.algorithm;
  return job;
}

inline WeightJob make_job(Dtype dtype, const Geometry& geometry, int64_t segments,
                          const Array& input, const Array& grad, const Array& filter,
                          const AxisTable& h, const AxisTable& w) {
  int64_t components = components_of(dtype);
  WeightJob job{};
  job.input = view_of(input, components);
  job.grad = view_of(grad, components);
  job.result = filter.data;
  job.segment = filter.segment_stride * components;
  job.k = filter.stride[0] * components;
  job.c = filter.stride[1] * components;
  job.r = filter.stride[2] * components;
  job.s = filter.stride[3] * components;
  job.batch = segments > 0 ? input.size[0] / segments : 0;
  job.segments = segments;
  job.groups = geometry.groups;
  job.channels = filter.size[1];
  job.filters = filter.size[0] / geometry.groups;
  job.components = components;
  job.algorithm = geometry.algorithm;
  job.h = h.map();
  job.w = w.map();
  return job;
}

inline ScatterJob make_scatter_job(const CorrelateJob& like, const AxisMap& h, const AxisMap& w) {
  return {like.source,
          like.result,
          nullptr,
          like.bias,
          like.bias_stride,
          like.batch,
          like.segments,
          like.groups,
          like.depth,
          like.rows,
          like.components,
          h,
          w};
}

}  // namespace fullconv::cpu
