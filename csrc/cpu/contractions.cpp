// Describes a contraction to the engine as jobs, and runs the jobs' tasks on torch's threads.
#include "contractions.h"

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

#include "engine.h"

namespace fullconv::cpu {
namespace {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(int64_t bytes) {
  if (bytes == 0) return nullptr;
  void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!memory) throw std::bad_alloc();
  return Memory(memory);
}

// Scratch of all workers of a call, kept by the calling thread for its next call.
char* scratch_of(int64_t bytes) {
  thread_local Memory memory;
  thread_local int64_t size = 0;
  if (bytes > size) {
    memory.reset();
    size = 0;
    memory = allocate(bytes);
    size = bytes;
  }
  return static_cast<char*>(memory.get());
}

constexpr int64_t kCopying = 16;  // multiply-adds in the time that it takes to copy a byte

// Calls task(index, scratch) for each index below `tasks`. Workers take the next task when they are
// free: who does which changes nothing in the result. `work` counts the multiply-adds of all
// tasks: waking a thread is worth it from some ten microseconds of them.
template <class F>
void for_tasks(int64_t tasks, int64_t work, int64_t scratch, const F& task) {
  constexpr int64_t work_of_a_thread = 1 << 19;
  int64_t workers = std::min(
      {tasks, 1 + work / work_of_a_thread, static_cast<int64_t>(torch::stable::get_num_threads())});
  scratch = (scratch + 63) / 64 * 64;
  char* memory = scratch_of(workers * scratch);
  if (workers <= 1) {
    for (int64_t index = 0; index < tasks; ++index) task(index, memory);
    return;
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
        task(index, memory + worker * scratch);
  });
}

const Engine& engine_of(Dtype dtype) {
  const InstructionSet& set = instruction_set();
  switch (dtype) {
    case Dtype::f32:
    case Dtype::c64: return set.f32;
    case Dtype::f64:
    case Dtype::c128: return set.f64;
    case Dtype::bf16: return set.bf16;
    case Dtype::f16: return set.f16;
  }
  return set.f32;
}

int64_t components_of(Dtype dtype) { return dtype == Dtype::c64 || dtype == Dtype::c128 ? 2 : 1; }

View view(const Array& array, int64_t components) {
  const int64_t* stride = array.stride;
  return {array.data, stride[0] * components, stride[1] * components, stride[2] * components,
          stride[3] * components};
}

// The filter with its own K as rows, C as depth.
FilterView view_filter(const Array& filter, int64_t components, int64_t groups) {
  int64_t k = filter.stride[0] * components;
  return {filter.data,
          filter.segment_stride * components,
          filter.size[0] / groups * k,
          k,
          filter.stride[1] * components,
          filter.stride[2] * components,
          filter.stride[3] * components};
}

// Channels beside each other, and more than one: the micro-kernel's vectors run along them.
bool channels_last(const Array& array) { return array.stride[1] == 1 && array.size[1] > 1; }

template <class Way, class Job>
const Way& first_that_fits(const Way* ways, const Job& job) {
  while (!ways->fits(job)) ++ways;
  return *ways;
}

// One job for each pair of axis tables, or for each of the rows if a way takes all columns at once:
// their positions make up the result. Says whether the filter
// has a NaN or Inf.
bool run(Dtype dtype, CorrelateJob job, FilterView filter, const std::vector<AxisTable>& h,
         const std::vector<AxisTable>& w) {
  const Engine& engine = engine_of(dtype);
  bool special = false;
  job.special = &special;
  auto run_way = [&](const CorrelateWay& way, int64_t columns, int64_t terms) {
    int64_t packed_size = way.packed_filter_size(job);
    Memory packed = allocate(packed_size);
    job.filter = packed.get();
    for_tasks(way.pack_filter_tasks(job), packed_size * kCopying, 0,
              [&](int64_t task, void*) { way.pack_filter(job, filter, packed.get(), task); });
    int64_t positions = job.batch * job.h.positions * columns;
    int64_t taps = job.h.taps * terms;
    int64_t work = job.segments * job.groups * job.rows * positions * (job.depth * taps + 1);
    for_tasks(way.tasks(job), work, way.scratch(job),
              [&](int64_t task, void* scratch) { way.run(job, task, scratch); });
  };
  std::vector<AxisMap> maps;
  for (const AxisTable& columns : w) maps.push_back(columns.map());
  job.columns = maps.data();
  job.column_maps = static_cast<int64_t>(maps.size());
  for (const AxisTable& rows : h) {
    job.h = rows.map();
    if (engine.channels.fits(job)) {
      run_way(engine.channels, maps[0].positions * job.column_maps, maps[0].taps);
      continue;
    }
    for (const AxisMap& columns : maps) {
      job.w = columns;
      run_way(first_that_fits(engine.correlate, job), columns.positions, columns.taps);
    }
  }
  return special;
}

CorrelateJob make_job(Dtype dtype, const Geometry& geometry, int64_t segments, const Array& source,
                      const Array* bias, const Array& result) {
  int64_t components = components_of(dtype);
  CorrelateJob job{};
  job.source = view(source, components);
  job.result = view(result, components);
  job.bias = bias ? bias->data : nullptr;
  job.bias_stride = bias ? bias->stride[0] * components : 0;
  job.batch = segments > 0 ? source.size[0] / segments : 0;
  job.segments = segments;
  job.groups = geometry.groups;
  job.depth = source.size[1] / geometry.groups;
  job.rows = result.size[1] / geometry.groups;
  job.components = components;
  job.rows_along_vectors = channels_last(result);
  return job;
}

// Which form of full_convolve takes fewer steps, counted in vector operations a position: the
// gather form multiplies with the zeros around the gradient and wastes tiles on few channels, the
// scatter form adds each product once more. A tile of one row is half busy.
bool scatter_is_cheaper(const Geometry& geometry, const CorrelateJob& job) {
  if (job.depth == 1 && job.rows == 1) return false;  // depthwise has ways of its own
  double outputs = 1.0 * geometry.h.outputs() * geometry.w.outputs();
  double inputs =
      1.0 * geometry.h.size * geometry.w.size / (1.0 * geometry.h.stride * geometry.w.stride);
  constexpr int64_t packing = 1, adding = 3;
  int64_t rows =
      job.rows_along_vectors ? (job.rows + 15) / 16 * 16 : std::max<int64_t>(job.rows, 2);
  return outputs * job.rows * (job.depth + adding) < inputs * job.depth * (rows + packing);
}

void scatter(Dtype dtype, const Geometry& geometry, int64_t segments, const Array& grad,
             const FilterView& filter, const Array* bias, const Array& result) {
  const ScatterWay& way = engine_of(dtype).scatter;
  CorrelateJob like = make_job(dtype, geometry, segments, grad, bias, result);
  AxisTable h = AxisTable::forward(geometry.h), w = AxisTable::forward(geometry.w);
  ScatterJob job{like.source,     like.result,   nullptr,     like.bias,  like.bias_stride,
                 like.batch,      like.segments, like.groups, like.depth, like.rows,
                 like.components, h.map(),       w.map()};
  int64_t packed_size = way.packed_filter_size(job);
  Memory packed = allocate(packed_size);
  job.filter = packed.get();
  for_tasks(way.pack_filter_tasks(job), packed_size * kCopying, 0,
            [&](int64_t task, void*) { way.pack_filter(job, filter, packed.get(), task); });
  int64_t products = job.h.positions * job.w.positions * job.h.taps * job.w.taps;
  int64_t work =
      grad.size[0] * result.size[1] * (products * job.filters + job.h.limit * job.w.limit);
  for_tasks(way.tasks(job), work, way.scratch(job),
            [&](int64_t task, void* scratch) { way.run(job, task, scratch); });
}

}  // namespace

void correlate(Dtype dtype, const Geometry& geometry, int64_t segments, const Array& input,
               const Array& filter, const Array* bias, const Array& result) {
  FilterView rows = view_filter(filter, components_of(dtype), geometry.groups);
  run(dtype, make_job(dtype, geometry, segments, input, bias, result), rows,
      {AxisTable::forward(geometry.h)}, {AxisTable::forward(geometry.w)});
}

void full_convolve(Dtype dtype, const Geometry& geometry, int64_t segments, const Array& grad,
                   const Array& filter, const Array* bias, const Array& result) {
  FilterView rows = view_filter(filter, components_of(dtype), geometry.groups);
  std::swap(rows.row, rows.depth);
  CorrelateJob job = make_job(dtype, geometry, segments, grad, bias, result);
  bool gather = geometry.h.padding == Padding::zeros &&
                (engine_of(dtype).narrow_groups(job) || !scatter_is_cheaper(geometry, job));
  // The gather form multiplies a NaN or Inf in the filter with the zeros around the gradient too.
  if (!gather ||
      run(dtype, job, rows, AxisTable::adjoint(geometry.h), AxisTable::adjoint(geometry.w)))
    scatter(dtype, geometry, segments, grad, rows, bias, result);
}

void correlate_weight(Dtype dtype, const Geometry& geometry, int64_t segments, const Array& input,
                      const Array& grad, const Array& filter) {
  int64_t components = components_of(dtype);
  AxisTable h = AxisTable::forward(geometry.h), w = AxisTable::forward(geometry.w);
  WeightJob job{};
  job.input = view(input, components);
  job.grad = view(grad, components);
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
  job.h = h.map();
  job.w = w.map();
  const WeightWay& way = first_that_fits(engine_of(dtype).weight, job);
  job.splits = way.splits(job);
  int64_t partial_size = way.partial_size(job);
  Memory partial = allocate(partial_size);
  job.partial = partial.get();
  int64_t positions = input.size[0] * job.h.positions * job.w.positions;
  int64_t work = positions * grad.size[1] * job.channels * job.h.taps * job.w.taps;
  for_tasks(way.tasks(job), work, way.scratch(job),
            [&](int64_t task, void* scratch) { way.run(job, task, scratch); });
  for_tasks(way.reduce_tasks(job), partial_size * kCopying, 0,
            [&](int64_t task, void*) { way.reduce(job, task); });
}

void channel_sum(Dtype dtype, const Array& grad, void* result) {
  const Engine& engine = engine_of(dtype);
  int64_t components = components_of(dtype);
  ChannelSumJob job{view(grad, components), result,       grad.size[0], grad.size[1],
                    grad.size[2],           grad.size[3], components};
  int64_t work = grad.size[0] * grad.size[1] * grad.size[2] * grad.size[3] * kCopying;
  for_tasks(engine.channel_sum_tasks(job), work, 0,
            [&](int64_t task, void*) { engine.channel_sum(job, task); });
}

}  // namespace fullconv::cpu
