// Describes a contraction to the kernels as jobs, and launches them.
#include "launch.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "channels_last.cuh"
#include "host.h"
#include "kernels.h"

namespace fullconv::cuda {
namespace {

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

int64_t round_up(int64_t count, int64_t unit) { return quotient_up(count, unit) * unit; }

// Kernels keep coordinates in 32 bits.
const char* check_reach(const Progression& axis) {
  constexpr int64_t most = -(kNowhere / 2);
  auto far = [](int64_t coordinate) { return coordinate <= -most || coordinate >= most; };
  int64_t last = axis.positions > 0 ? axis.base + (axis.positions - 1) * axis.step : 0;
  int64_t reach = axis.taps > 0 ? (axis.taps - 1) * axis.tap_step : 0;
  if (far(axis.limit) || far(axis.base) || far(last) || far(reach))
    return "on CUDA, an axis with its padding must be shorter than 2^29, and so must a dilated "
           "kernel";
  return nullptr;
}

bool every(const Progression& axis) {
  return axis.taps == 1 && axis.base == 0 && axis.step == 1 && axis.positions == axis.limit &&
         axis.position_step == 1 && axis.tap == 0;
}

// A 1x1 layer on planes without gaps, of a and b: they are rows as well.
void join_rows(Line& h, Line& w, const View& a, const View& b) {
  auto whole = [&](const View& view) { return h.limit == 1 || view.h == w.limit * view.w; };
  if (!every(h) || !every(w) || !whole(a) || !whole(b)) return;
  if (h.limit * w.limit >= -(kNowhere / 2)) return;
  w = Progression(h.limit * w.limit);
  h = Progression(1);
}

// Whether copies of 16 bytes may run along the positions of a row that shows its own elements.
bool aligned_rows(const View& view, int64_t scalar, const Progression& w) {
  return every(w) && view.w == 1 && aligned(view, scalar, {view.n, view.c, view.h, w.limit});
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
  job.by_depth = Divider(job.depth);
  return job;
}

WeightJob make_job(Dtype dtype, const Geometry& geometry, int64_t segments, const Array& input,
                   const Array& grad, const Array& filter) {
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
  job.batch = input.size[0] / segments;
  job.segments = segments;
  job.groups = geometry.groups;
  job.channels = filter.size[1];
  job.filters = filter.size[0] / geometry.groups;
  job.components = components;
  job.by_channels = Divider(job.channels), job.by_filters = Divider(job.filters);
  job.h = Progression(AxisTable::forward(geometry.h).map());
  job.w = Progression(AxisTable::forward(geometry.w).map());
  return job;
}

Way way_of(const CorrelateJob& job, int64_t scalar, bool tensor_cores) {
  if (job.source.c == 1 && job.depth > 1)
    return {tensor_cores, true, aligned_channels(job.source, scalar, job.depth)};
  return {tensor_cores, false,
          job.phases() == 1 && aligned_rows(job.source, scalar, job.w.axis[0])};
}

Way way_of(const WeightJob& job, int64_t scalar, bool tensor_cores) {
  if (job.input.c == 1 && job.grad.c == 1 && job.channels * job.filters > 1)
    return {tensor_cores, true,
            aligned_channels(job.input, scalar, job.channels) &&
                aligned_channels(job.grad, scalar, job.filters)};
  return {tensor_cores, false,
          aligned_rows(job.input, scalar, job.w) && aligned_rows(job.grad, scalar, job.grad_w)};
}

// A few channels for each of several groups: what they multiply would leave tiles nearly empty.
template <class JOB>
bool narrow_groups(const JOB& job, int64_t depth, int64_t rows) {
  return job.groups > 1 && job.components == 1 && depth * rows <= 8;
}

bool takes_tensor_cores(const Context& context, Dtype dtype) {
  return scalar_size(dtype) == 2 || (context.allow_tf32 && dtype == Dtype::f32);
}

// Reads along an axis of a source, of which windows that overlap read elements again.
int64_t meetings(const Progression& axis) { return axis.positions * axis.taps; }
int64_t meetings(const Phases& axis) {
  int64_t sum = 0;
  for (int i = 0; i < axis.count; ++i) sum += meetings(axis.axis[i]);
  return sum;
}

// Whether a source that is read more than once should be copied with its channels innermost.
bool worth_a_copy(const View& view, int64_t scalar, int64_t depth) {
  return scalar == 2 && view.c != 1 && depth > 0 && depth % kEight == 0;
}

const char* make_channels_last(const Context& context, View& view, int64_t samples,
                               int64_t channels, int64_t height, int64_t width) {
  ChannelsLastJob job{};
  job.from = view;
  job.samples = samples, job.channels = channels, job.height = height, job.width = width;
  void* data = context.allocate(samples * channels * height * width * sizeof(uint16_t));
  job.to = view = {data, height * width * channels, 1, width * channels, channels};
  job.channel_tiles = quotient_up(channels, kSquare);
  job.pixel_tiles = quotient_up(height * width, kSquare);
  return message(launch(cuda::make_channels_last, job.channel_tiles * job.pixel_tiles * samples,
                        kSquareThreads, sizeof(Square), stream_of(context), job));
}

const char* copy_source(const Context& context, int64_t scalar, CorrelateJob& job) {
  int64_t height = job.h.axis[0].limit, width = job.w.axis[0].limit;
  if (meetings(job.h) * meetings(job.w) <= height * width ||
      !worth_a_copy(job.source, scalar, job.depth))
    return nullptr;
  return make_channels_last(context, job.source, job.segments * job.batch, job.groups * job.depth,
                            height, width);
}

// Only if all that is then read has its channels innermost.
const char* copy_sources(const Context& context, int64_t scalar, WeightJob& job) {
  bool input = worth_a_copy(job.input, scalar, job.channels);
  bool grad = worth_a_copy(job.grad, scalar, job.filters);
  if (meetings(job.h) * meetings(job.w) <= job.h.limit * job.w.limit ||
      (!input && !aligned_channels(job.input, scalar, job.channels)) ||
      (!grad && !aligned_channels(job.grad, scalar, job.filters)))
    return nullptr;
  int64_t samples = job.segments * job.batch;
  if (input)
    FULLCONV_TRY(make_channels_last(context, job.input, samples, job.groups * job.channels,
                                    job.h.limit, job.w.limit));
  if (grad)
    FULLCONV_TRY(make_channels_last(context, job.grad, samples, job.groups * job.filters,
                                    job.grad_h.limit, job.grad_w.limit));
  return nullptr;
}

const char* run_depthwise(const Context& context, Dtype dtype, CorrelateJob job) {
  const Kernels& kernels = kernels_of(dtype);
  int64_t scalar = scalar_size(dtype), stored = job.wide_result && scalar < 4 ? 4 : scalar;
  DirectWay way{job.source.c == 1 && job.result.c == 1, false};
  way.vectors = job.depth * job.rows == 1 && aligned_channels(job.source, scalar, job.groups) &&
                aligned_channels(job.result, stored, job.groups);
  if (way.vectors) {
    job.terms = job.h.most_taps() * job.w.most_taps(), job.pitch = job.groups;
    job.filter = context.allocate(job.segments * job.phases() * job.terms * job.pitch * scalar);
    CorrelateJob pack = job;  // all filters as the rows of one group
    pack.rows = std::exchange(pack.groups, 1);
    pack.unpacked.row = pack.unpacked.group;
    FULLCONV_TRY(message(kernels.pack_filter(pack, stream_of(context))));
  }
  return message(kernels.depthwise(job, way, stream_of(context)));
}

const char* run(const Context& context, Dtype dtype, CorrelateJob job) {
  for (const Phases* phases : {&job.h, &job.w})
    for (int i = 0; i < phases->count; ++i) FULLCONV_TRY(check_reach(phases->axis[i]));
  const Kernels& kernels = kernels_of(dtype);
  if (narrow_groups(job, job.depth, job.rows)) return run_depthwise(context, dtype, job);
  if (job.phases() == 1) join_rows(job.h.axis[0], job.w.axis[0], job.source, job.result);
  int64_t rows = job.rows * job.components, taps = job.h.most_taps() * job.w.most_taps();
  bool tensor_cores = takes_tensor_cores(context, dtype);
  job.pitch = round_up(rows, tile_rows(rows, tensor_cores));
  job.terms = round_up(taps * job.components * job.depth, kMostDepth);
  if (job.terms >= int64_t{1} << 31)
    return "on CUDA, a filter must have fewer than 2^31 elements for each channel that it gives";
  int64_t filters = job.segments * job.groups * job.phases(), scalar = scalar_size(dtype);
  FULLCONV_TRY(copy_source(context, scalar, job));
  job.filter = context.allocate(filters * job.terms * job.pitch * scalar);
  cudaStream_t stream = stream_of(context);
  if (!job.zeros_count) {
    job.special = static_cast<int*>(context.allocate(sizeof(int)));
    FULLCONV_TRY(message(cudaMemsetAsync(job.special, 0, sizeof(int), stream)));
  }
  FULLCONV_TRY(message(kernels.pack_filter(job, stream)));
  FULLCONV_TRY(message(kernels.correlate(job, way_of(job, scalar, tensor_cores), stream)));
  return job.zeros_count ? nullptr : message(kernels.correlate_without_zeros(job, stream));
}

// Splits for some blocks on each multiprocessor, `blocks` a split and segment, if each has enough
// to add; and memory for their sums.
void split(const Context& context, WeightJob& job, int64_t blocks) {
  constexpr int64_t wanted_blocks = 512, least_positions = 256, most_positions = 1 << 30;
  int64_t positions =
      quotient_up(job.positions(), quotient_up(wanted_blocks, blocks * job.segments));
  job.split_positions =
      round_up(std::clamp(positions, least_positions, most_positions), kMostDepth);
  job.splits = std::max<int64_t>(1, quotient_up(job.positions(), job.split_positions));
  int64_t elements = job.splits * job.segments * job.groups * job.rows() * job.terms();
  job.partial = context.allocate(elements * sizeof(double));
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

const char* convolve(const Context& context, Dtype dtype, const Geometry& geometry,
                     CorrelateJob job) {
  bool leaves_out = false;
  std::vector<Progression> h = adjoint(geometry.h, leaves_out);
  std::vector<Progression> w = adjoint(geometry.w, leaves_out);
  if (leaves_out)  // what no tap reaches is the bias; the rest is overwritten
    FULLCONV_TRY(
        run(context, dtype, job, {unreached(geometry.h.size)}, {unreached(geometry.w.size)}));
  return run(context, dtype, job, h, w);
}

// full_convolve for mirrored padding: to the padded size first.
const char* convolve_and_fold(const Context& context, Dtype dtype, Geometry geometry,
                              CorrelateJob job, const Array& result) {
  FoldJob fold{};
  fold.h = geometry.h, fold.w = geometry.w;
  for (Axis* axis : {&geometry.h, &geometry.w}) {
    axis->size += axis->pad_before + axis->pad_after;
    axis->pad_before = axis->pad_after = 0;
    axis->padding = Padding::zeros;
  }
  int64_t h = geometry.h.size, w = geometry.w.size, samples = result.size[0];
  int64_t channels = result.size[1], components = job.components;
  int64_t elements = samples * channels * h * w * components;
  void* data = context.allocate(elements * (scalar_size(dtype) == 8 ? 8 : 4));
  fold.padded = job.result.c == 1 ? View{data, h * w * channels, 1, w * channels, channels}
                                  : View{data, channels * h * w * components, h * w * components,
                                         w * components, components};
  fold.result = job.result;
  fold.bias = std::exchange(job.bias, nullptr);
  fold.bias_stride = job.bias_stride;
  fold.samples = samples, fold.channels = channels, fold.components = components;
  job.result = fold.padded;
  job.wide_result = true;
  FULLCONV_TRY(convolve(context, dtype, geometry, job));
  return message(kernels_of(dtype).fold_padding(fold, stream_of(context)));
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
  job.zeros_count = true;
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
  FilterView rows = view_filter(filter, components_of(dtype), geometry.groups);
  std::swap(rows.row, rows.depth);
  CorrelateJob job = make_job(dtype, geometry, segments, grad, rows, bias, result);
  if (geometry.h.padding == Padding::zeros) return convolve(context, dtype, geometry, job);
  return convolve_and_fold(context, dtype, geometry, job, result);
}

const char* correlate_weight(const Context& context, Dtype dtype, const Geometry& geometry,
                             int64_t segments, const Array& input, const Array& grad,
                             const Array& filter) {
  if (segments == 0 || empty(filter)) return nullptr;
  Geometry flat = geometry;
  Array whole = input, flat_filter = filter;
  if (flatten(flat, whole, flat_filter))
    return correlate_weight(context, dtype, flat, segments, whole, grad, flat_filter);
  WeightJob job = make_job(dtype, geometry, segments, input, grad, filter);
  for (const Line* axis : {&job.h, &job.w}) FULLCONV_TRY(check_reach(*axis));
  join_rows(job.h, job.w, job.input, job.grad);
  job.grad_h = Progression(job.h.positions), job.grad_w = Progression(job.w.positions);

  const Kernels& kernels = kernels_of(dtype);
  cudaStream_t stream = stream_of(context);
  int64_t scalar = scalar_size(dtype);
  if (job.channels == 1 && narrow_groups(job, 1, job.filters)) {
    DirectWay way{job.input.c == 1 && job.grad.c == 1, false};
    way.vectors = job.filters == 1 && aligned_channels(job.input, scalar, job.groups) &&
                  aligned_channels(job.grad, scalar, job.groups);
    int64_t tiles = quotient_up(job.groups * job.filters, way.channels(scalar));
    split(context, job, tiles * quotient_up(job.h.taps * job.w.taps, 8));  // about 8 a block
    FULLCONV_TRY(message(kernels.depthwise_weight(job, way, stream)));
  } else {
    FULLCONV_TRY(copy_sources(context, scalar, job));
    Way way = way_of(job, scalar, takes_tensor_cores(context, dtype));
    int64_t row_tiles = quotient_up(job.rows(), tile_rows(job.rows(), way.tensor_cores));
    split(context, job, row_tiles * quotient_up(job.terms(), kMostColumns) * job.groups);
    FULLCONV_TRY(message(kernels.correlate_weight(job, way, stream)));
  }
  return message(kernels.reduce_splits(job, stream));
}

const char* channel_sum(const Context& context, Dtype dtype, const Array& grad, void* result) {
  if (grad.size[1] == 0) return nullptr;
  WeightJob job{};
  job.grad = view_of(grad, components_of(dtype));
  job.h = job.grad_h = Progression(grad.size[2]);
  job.w = job.grad_w = Progression(grad.size[3]);
  job.h.taps = job.w.taps = 1;
  job.result = result;
  job.k = 1;
  job.batch = grad.size[0];
  job.segments = job.channels = job.filters = 1;
  job.by_channels = job.by_filters = Divider(1);
  job.groups = grad.size[1];
  job.components = components_of(dtype);
  int64_t scalar = scalar_size(dtype);
  DirectWay way{job.grad.c == 1, false};
  way.vectors = job.components == 1 && aligned_channels(job.grad, scalar, job.groups);
  split(context, job, quotient_up(job.groups, way.channels(scalar)));
  const Kernels& kernels = kernels_of(dtype);
  FULLCONV_TRY(message(kernels.channel_sum(job, way, stream_of(context))));
  job.groups *= job.components;  // real and imaginary parts are sums of their own
  job.components = 1;
  return message(kernels.reduce_splits(job, stream_of(context)));
}

}  // namespace fullconv::cuda
