// Describes ReLU and pooling to the engine as jobs, and runs the jobs' tasks on torch's threads.
#include "layers.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "../views.h"
#include "pooling.h"
#include "tasks.h"

namespace fullconv::cpu {
namespace {

const PoolEngine& engine_of(Element element) {
  return instruction_set().pooling[static_cast<int64_t>(element)];
}

// What both axes of a pooling layer need, and the job over it.
struct Tables {
  MeetingTable h, w;
  std::vector<AxisTable> columns;
  std::vector<AxisMap> maps;
  std::vector<int64_t> extent_h, extent_w;

  Tables(const Pool& pool, bool adjoint, bool by_index)
      : h(adjoint ? MeetingTable::adjoint(pool.h) : MeetingTable::forward(pool.h)),
        w(adjoint ? MeetingTable::adjoint(pool.w) : MeetingTable::forward(pool.w)) {
    if (by_index) return;  // the rest would be a fifth of a small call's time
    if (adjoint)
      columns = AxisTable::adjoint(pool.w.axis());
    else
      columns.push_back(AxisTable::forward(pool.w.axis()));
    for (const AxisTable& table : columns) maps.push_back(table.map());
    fill(pool.h, pool.count_include_pad, extent_h);
    fill(pool.w, pool.count_include_pad, extent_w);
  }

 private:
  static void fill(const Window& window, bool with_padding, std::vector<int64_t>& extent) {
    for (int64_t i = 0, count = window.outputs(); i < count; ++i)
      extent.push_back(window.extent(i, with_padding));
  }
};

}  // namespace

void relu(Element element, const std::vector<int64_t>& size, const Strided& x, const Strided* grad,
          const Strided& result) {
  Axes axes(size, {&x, grad ? grad : &x, &result});
  int64_t elements = 1;
  for (int64_t length : axes.size) elements *= length;
  if (elements == 0) return;
  ReluJob job{x.data, grad ? grad->data : nullptr, result.data, 1, 1, 1, 1, 1, 0, {}, {}, {}, {}};
  if (!axes.size.empty()) {
    job.axes = static_cast<int64_t>(axes.size.size()) - 1;
    job.length = axes.size.back();
    job.lines = elements / job.length;
    job.x_step = axes.stride[0].back();
    job.grad_step = axes.stride[1].back();
    job.result_step = axes.stride[2].back();
    job.size = axes.size.data();
    job.x_stride = axes.stride[0].data();
    job.grad_stride = axes.stride[1].data();
    job.result_stride = axes.stride[2].data();
  }
  const PoolEngine& engine = engine_of(element);
  for_tasks(engine.relu_tasks(job), elements * kCopying, 0,
            [&](int64_t task, void*) { engine.relu(job, task); });
}

void pool(Element element, Pooling pooling, const Pool& pool, const Array& source,
          const Array* indices, const Array& result) {
  if (std::count(result.size, result.size + 4, 0) > 0) return;
  bool adjoint = pooling == Pooling::max_scatter || pooling == Pooling::average_adjoint;
  bool by_index = pooling == Pooling::max_scatter || pooling == Pooling::max_gather;
  Tables tables(pool, adjoint, by_index);
  PoolJob job{};
  job.source = view(source, 1);
  job.result = view(result, 1);
  if (indices) job.indices = view(*indices, 1);
  job.batch = result.size[0];
  job.channels = result.size[1];
  job.source_rows = source.size[2];
  job.source_columns = source.size[3];
  job.width = pool.w.size;
  job.h = tables.h.meetings();
  job.w = tables.w.meetings();
  job.columns = tables.maps.data();
  job.column_maps = static_cast<int64_t>(tables.maps.size());
  job.extent_h = tables.extent_h.data();
  job.extent_w = tables.extent_w.data();
  job.divisor = pool.divisor;
  job.stray = pool.stray();
  const PoolWay* way = engine_of(element).pool[static_cast<int64_t>(pooling)];
  if (!way->fits) throw std::runtime_error("torch_fullconv: this layer does not take the dtype");
  while (!way->fits(job)) ++way;
  int64_t taps = std::min(pool.h.kernel, pool.h.size) * std::min(pool.w.kernel, pool.w.size);
  int64_t work = source.size[0] * source.size[1] * pool.h.outputs() * pool.w.outputs() * taps;
  for_tasks(way->tasks(job), work * kCopying, way->scratch(job),
            [&](int64_t task, void* scratch) { way->run(job, task, scratch); });
}

}  // namespace fullconv::cpu
