// Describes a contraction to the kernels as jobs, and launches them.
#include "launch.h"

#include <algorithm>
#include <vector>

#include "../views.h"
#include "kernels.h"

namespace fullconv::cuda {
namespace {

const char* message(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Returns from the caller if a step went wrong.
#define FULLCONV_TRY(step)                        \
  do {                                            \
    if (const char* wrong = (step)) return wrong; \
  } while (false)

cudaStream_t stream_of(const Context& context) { return static_cast<cudaStream_t>(context.stream); }

const Kernels& kernels_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
    case Dtype::c64: return kernels_f32;
    case Dtype::f64:
    case Dtype::c128: return kernels_f64;
    case Dtype::bf16: return kernels_bf16;
    case Dtype::f16: return kernels_f16;
  }
  return kernels_f32;
}

int64_t round_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

bool empty(const Array& array) {
  return array.size[0] * array.size[1] * array.size[2] * array.size[3] == 0;
}

// The strides of axes that no one steps along are 0, whatever the tensor says.
View view_of(const Array& array, int64_t components) {
  Array steps = array;
  for (int axis = 0; axis < 4; ++axis)
    if (array.size[axis] == 1) steps.stride[axis] = 0;
  return view(steps, components);
}

// Kernels keep coordinates in 32 bits.
const char* check_reach(const Progression& axis) {
  constexpr int64_t most = -(kNowhere / 2);
  auto far = [](int64_t coordinate) { return coordinate <= -most || coordinate >= most; };
  int64_t last = axis.positions > 0 ? axis.base + (axis.positions - 1) * axis.step : 0;
  int64_t reach = axis.taps > 0 ? (axis.taps - 1) * axis.tap_step : 0;
  if (far(axis.limit) || far(axis.base) || far(last) || far(reach))
    return "torch_fullconv: on CUDA, an axis with its padding must be shorter than 2^29, and so "
           "must "
           "a dilated kernel";
  return nullptr;
}

bool every(const Progression& axis) {
  return axis.taps == 1 && axis.base == 0 && axis.step == 1 && axis.positions == axis.limit &&
         axis.position_step == 1 && axis.tap == 0;
}

// A 1x1 layer on planes without gaps: they are rows as well.
void join_rows(CorrelateJob& job) {
  if (job.h.count != 1 || job.w.count != 1) return;
  Progression &h = job.h.axis[0], &w = job.w.axis[0];
  auto whole = [&](const View& view) { return h.limit == 1 || view.h == w.limit * view.w; };
  if (!every(h) || !every(w) || !whole(job.source) || !whole(job.result)) return;
  w = Progression(h.limit * w.limit);
  h = Progression(1);
}

Way way_of(const CorrelateJob& job, int64_t size, bool tensor_cores) {
  const View& source = job.source;
  const Progression &h = job.h.axis[0], &w = job.w.axis[0];
  int64_t vector = 16 / size;
  auto even = [&](int64_t stride) { return stride % vector == 0; };
  bool aligned = reinterpret_cast<uintptr_t>(source.data) % 16 == 0 && even(source.n);
  if (source.c == 1 && job.depth > 1)
    return {tensor_cores, true, aligned && even(source.h) && even(source.w) && even(job.depth)};
  bool rows = job.h.count == 1 && job.w.count == 1 && every(w) && source.w == 1 &&
              even(w.positions) && h.taps == 1 && h.padding == Padding::zeros;
  return {tensor_cores, false, aligned && rows && even(source.c) && even(source.h)};
}

CorrelateJob make_job(Dtype dtype, const Geometry& geometry, int64_t segments, const Array& source,
                      const FilterView& filter, const Array* bias, const Array& result) {
  int64_t components = components_of(dtype);
  CorrelateJob job{};
  job.source = view_of(source, components);
  job.result = view_of(result, components);
  job.unpacked = filter;
  job.bias = bias ? bias->data : nullptr;
  job.bias_stride = bias ? bias->stride[0] * components : 0;
  job.batch = source.size[0] / segments;
  job.segments = segments;
  job.groups = geometry.groups;
  job.depth = source.size[1] / geometry.groups;
  job.rows = result.size[1] / geometry.groups;
  job.components = components;
  return job;
}

const char* run(const Context& context, Dtype dtype, CorrelateJob job) {
  for (const Phases* phases : {&job.h, &job.w})
    for (int i = 0; i < phases->count; ++i) FULLCONV_TRY(check_reach(phases->axis[i]));
  const Kernels& kernels = kernels_of(dtype);
  join_rows(job);
  int64_t rows = job.rows * job.components, taps = job.h.most_taps() * job.w.most_taps();
  job.pitch = round_up(rows, tile_rows(rows));
  job.terms = round_up(taps * job.components * job.depth, kMostDepth);
  int64_t filters = job.segments * job.groups * job.phases();
  job.filter = context.allocate(filters * job.terms * job.pitch * scalar_size(dtype));
  FULLCONV_TRY(message(kernels.pack_filter(job, stream_of(context))));
  bool tf32 = context.allow_tf32 && dtype == Dtype::f32;
  Way way = way_of(job, scalar_size(dtype), tf32);
  return message(kernels.correlate(job, way, stream_of(context)));
}

// As few launches as hold all pairs of progressions.
const char* run(const Context& context, Dtype dtype, CorrelateJob job,
                const std::vector<Progression>& h, const std::vector<Progression>& w) {
  auto fill = [](Phases& phases, const std::vector<Progression>& all, size_t first) {
    phases.count = static_cast<int>(std::min<size_t>(kMostPhases, all.size() - first));
    std::copy_n(all.begin() + first, phases.count, phases.axis);
  };
  for (size_t i = 0; i < h.size(); i += kMostPhases)
    for (size_t j = 0; j < w.size(); j += kMostPhases) {
      fill(job.h, h, i);
      fill(job.w, w, j);
      FULLCONV_TRY(run(context, dtype, job));
    }
  return nullptr;
}

// All positions of an axis, met by no tap.
Progression unreached(int64_t size) {
  Progression axis(size);
  axis.taps = 0;
  return axis;
}

// full_convolve's progressions of an axis, and whether they leave positions out.
std::vector<Progression> adjoint(const Axis& axis, bool& leaves_out) {
  std::vector<Progression> phases;
  for (const AxisTable& table : AxisTable::adjoint(axis)) {
    AxisMap map = table.map();
    if (map.taps > 0)
      phases.emplace_back(map);
    else
      leaves_out = true;
  }
  return phases;
}

}  // namespace

const char* correlate(const Context& context, Dtype dtype, const Geometry& geometry,
                      int64_t segments, const Array& input, const Array& filter, const Array* bias,
                      const Array& result) {
  if (empty(result)) return nullptr;
  Geometry flat = geometry;
  Array whole = input, flat_filter = filter;
  if (flatten(flat, whole, flat_filter))
    return correlate(context, dtype, flat, segments, whole, flat_filter, bias, result);
  FilterView rows = view_filter(filter, components_of(dtype), geometry.groups);
  CorrelateJob job = make_job(dtype, geometry, segments, input, rows, bias, result);
  return run(context, dtype, job, {Progression(AxisTable::forward(geometry.h).map())},
             {Progression(AxisTable::forward(geometry.w).map())});
}

const char* full_convolve(const Context& context, Dtype dtype, const Geometry& geometry,
                          int64_t segments, const Array& grad, const Array& filter,
                          const Array* bias, const Array& result) {
  if (empty(result)) return nullptr;
  Geometry flat = geometry;
  Array whole = result, flat_filter = filter;
  if (!bias && flatten(flat, whole, flat_filter))
    return full_convolve(context, dtype, flat, segments, grad, flat_filter, bias, whole);
  if (geometry.h.padding != Padding::zeros)
    return "torch_fullconv: no input gradient of mirrored padding on CUDA yet";
  FilterView rows = view_filter(filter, components_of(dtype), geometry.groups);
  std::swap(rows.row, rows.depth);
  CorrelateJob job = make_job(dtype, geometry, segments, grad, rows, bias, result);
  bool leaves_out = false;
  std::vector<Progression> h = adjoint(geometry.h, leaves_out);
  std::vector<Progression> w = adjoint(geometry.w, leaves_out);
  if (leaves_out)  // what no tap reaches is the bias; the rest is overwritten
    FULLCONV_TRY(
        run(context, dtype, job, {unreached(geometry.h.size)}, {unreached(geometry.w.size)}));
  return run(context, dtype, job, h, w);
}

const char* correlate_weight(const Context&, Dtype, const Geometry&, int64_t, const Array&,
                             const Array&, const Array&) {
  return "torch_fullconv: no filter gradient on CUDA yet";
}

const char* channel_sum(const Context&, Dtype, const Array&, void*) {
  return "torch_fullconv: no bias gradient on CUDA yet";
}

}  // namespace fullconv::cuda
