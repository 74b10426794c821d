// Describes a contraction to the engine as jobs, and runs the jobs' tasks on torch's threads.
#include "contractions.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "../views.h"
#include "engine.h"
#include "jobs.h"
#include "subnormals.h"
#include "tasks.h"

namespace fullconv::cpu {
namespace {

const Engine& engine_of(Dtype dtype) {
  const InstructionSet& set = instruction_set();
  switch (dtype) {
    case Dtype::f32:
    case Dtype::c64: return *set.f32;
    case Dtype::f64:
    case Dtype::c128: return *set.f64;
    case Dtype::bf16: return *set.bf16;
    case Dtype::f16: return *set.f16;
  }
  return *set.f32;
}

template <class F>
void for_products(int64_t tasks, int64_t work, int64_t scratch, const F& task) {
  for_tasks(tasks, work, scratch, [&](int64_t index, void* memory) {
    [[maybe_unused]] SubnormalsAsZeros here;
    task(index, memory);
  });
}

// What a job costs by a way: nothing if it is the one that TORCH_FULLCONV_WAY names, which so does
// all that it can (the tests compare every way with the reference).
template <class Way, class Job>
double cost_of(const Way& way, const Job& job) {
  static const char* named = std::getenv("TORCH_FULLCONV_WAY");
  double cost = way.cost(job);
  return named && cost < kNever && std::strcmp(way.name, named) == 0 ? 0 : cost;
}

// A way to do a job, and what it costs.
template <class Way>
struct Choice {
  const Way* way;
  double cost;
};

template <class Way, size_t COUNT, class Job>
Choice<Way> cheapest(const Way (&ways)[COUNT], const Job& job) {
  Choice<Way> best{nullptr, kNever};
  for (const Way& way : ways) {
    if (!way.cost) break;
    if (double cost = cost_of(way, job); !best.way || cost < best.cost) best = {&way, cost};
  }
  return best;
}

std::vector<AxisMap> columns_of(const std::vector<AxisTable>& w) {
  std::vector<AxisMap> maps;
  for (const AxisTable& columns : w) maps.push_back(columns.map());
  return maps;
}

// How many positions an axis has, or those that some tap reaches.
int64_t size_of(const std::vector<AxisTable>& axis, bool reached) {
  int64_t size = 0;
  for (const AxisTable& table : axis)
    if (AxisMap map = table.map(); map.taps > 0 || !reached) size += map.positions;
  return size;
}

// Calls f(way, job, columns of it) for the jobs whose positions make up the result, and returns
// what they cost: one job for each pair of axis tables, or for each of the rows where a way that
// takes all columns at once is cheaper. Where most positions meet no tap, as in the input gradient
// of a strided 1x1 layer, a job for all comes first, whose memory lies together.
template <class F>
double for_jobs(const Engine& engine, CorrelateJob job, const std::vector<AxisTable>& h,
                const std::vector<AxisTable>& w, const F& f) {
  if (w.empty()) return 0;  // nor is there a result
  double cost = 0;
  std::vector<AxisMap> maps = columns_of(w);
  std::vector<const CorrelateWay*> ways(maps.size());
  job.columns = maps.data();
  job.column_maps = static_cast<int64_t>(maps.size());
  int64_t height = size_of(h, false), width = size_of(w, false);
  bool filled = 2 * size_of(h, true) * size_of(w, true) < height * width;
  if (filled) {
    AxisTable rows = AxisTable::without_taps(height), columns = AxisTable::without_taps(width);
    job.h = rows.map(), job.w = columns.map();
    auto [way, all] = cheapest(engine.correlate, job);
    cost += all;
    f(*way, job, width);
  }
  auto is_done = [&](const AxisMap& axis) { return filled && axis.taps == 0; };
  for (const AxisTable& rows : h) {
    double apart = 0;
    job.h = rows.map();
    if (is_done(job.h)) continue;
    for (size_t i = 0; i < maps.size(); ++i) {
      if (is_done(maps[i])) continue;
      job.w = maps[i];
      auto [way, some] = cheapest(engine.correlate, job);
      ways[i] = way;
      apart += some;
    }
    double together = cost_of(engine.channels, job);
    cost += std::min(apart, together);
    job.w = maps[0];
    if (together <= apart) f(engine.channels, job, maps[0].positions * job.column_maps);
    for (size_t i = 0; i < maps.size() && apart < together; ++i) {
      if (is_done(maps[i])) continue;
      job.w = maps[i];
      f(*ways[i], job, job.w.positions);
    }
  }
  return cost;
}

// Packs a job's filter, and does the job, which is so much work.
template <class Job>
void pack_and_run(const FilterWay<Job>& way, Job job, const FilterView& filter, int64_t work) {
  int64_t packed_size = way.packed_filter_size(job);
  Memory own;
  char* packed = kept_block.get(packed_size, own);
  job.filter = packed;
  for_products(way.pack_filter_tasks(job), packed_size * kCopying, 0,
               [&](int64_t task, void*) { way.pack_filter(job, filter, packed, task); });
  for_products(way.tasks(job), work, way.scratch(job),
               [&](int64_t task, void* scratch) { way.run(job, task, scratch); });
}

// One job, `columns` positions a row, by one way.
void contract(const CorrelateWay& way, const CorrelateJob& job, int64_t columns) {
  int64_t positions = job.batch * job.h.positions * columns;
  int64_t terms = job.depth * job.h.taps * job.w.taps + 1;
  pack_and_run(way, job, job.unpacked, job.segments * job.groups * job.rows * positions * terms);
}

void* advance(void* data, int64_t bytes) { return static_cast<char*>(data) + bytes; }

// One sample of a job, by a way that spreads nothing.
CorrelateJob directly(CorrelateJob job, int64_t sample, int64_t scalar_size) {
  job.source.data = advance(job.source.data, sample * job.source.n * scalar_size);
  job.result.data = advance(job.result.data, sample * job.result.n * scalar_size);
  job.unpacked.data = advance(const_cast<void*>(job.unpacked.data),
                              sample / job.batch * job.unpacked.segment * scalar_size);
  job.segments = job.batch = 1;
  job.exact = true;
  return job;
}

// Says whether the filter has a NaN or Inf.
bool run(Dtype dtype, CorrelateJob job, FilterView filter, const std::vector<AxisTable>& h,
         const std::vector<AxisTable>& w) {
  const Engine& engine = engine_of(dtype);
  int64_t samples = job.segments * job.batch;
  bool special = false;
  auto spread = std::make_unique<bool[]>(samples);
  job.special = &special;
  job.spread = spread.get();
  job.unpacked = filter;
  for_jobs(engine, job, h, w,
           [&](const CorrelateWay& way, const CorrelateJob& part, int64_t columns) {
             std::fill_n(spread.get(), samples, false);
             contract(way, part, columns);
             for (int64_t sample = 0; sample < samples; ++sample)
               if (spread[sample]) {
                 CorrelateJob again = directly(part, sample, scalar_size(dtype));
                 contract(*cheapest(engine.correlate, again).way, again, again.w.positions);
               }
           });
  return special;
}

// Input and gradient of a 1x1 layer may change places, which turns the filter: its vectors run
// along the channels where there are few filters.
bool may_turn(const WeightJob& job) {
  return job.groups == 1 && is_plain(job.h) && is_plain(job.w);
}

// The cheapest way to do a job, or the same job turned.
Choice<WeightWay> choose(const Engine& engine, WeightJob& job) {
  Choice<WeightWay> best = cheapest(engine.weight, job);
  if (!may_turn(job)) return best;
  WeightJob turned = job;
  std::swap(turned.input, turned.grad);
  std::swap(turned.channels, turned.filters);
  std::swap(turned.c, turned.k);
  Choice<WeightWay> other = cheapest(engine.weight, turned);
  if (other.cost >= 0.9 * best.cost) return best;  // near each other, estimates say little
  job = turned;
  return other;
}

// A job for the taps of two axis tables.
WeightJob part_of(WeightJob job, const AxisMap& h, const AxisMap& w, int64_t scalar_size) {
  auto next = [](const AxisMap& axis) { return axis.taps > 1 ? axis.tap[1] - axis.tap[0] : 1; };
  job.result = advance(job.result, (h.tap[0] * job.r + w.tap[0] * job.s) * scalar_size);
  job.r *= next(h);
  job.s *= next(w);
  job.h = h, job.w = w;
  return job;
}

constexpr double kJob = 4e4;  // what a job takes beside its work: microseconds

// Calls f(way, job) for the jobs whose taps make up the filter, and returns what they cost: one for
// all, or one for each pair of parts of the axes where Winograd's filtering makes those cheaper.
template <class F>
double for_jobs(Dtype dtype, const Geometry& geometry, WeightJob job, const F& f) {
  const Engine& engine = engine_of(dtype);
  WeightJob whole = job;
  auto choice = choose(engine, whole);
  auto by_one = [&] {
    f(*choice.way, whole);
    return choice.cost;
  };
  if (!AxisTable::has_parts(geometry.h) && !AxisTable::has_parts(geometry.w)) return by_one();
  if (job.algorithm == Algorithm::direct) return by_one();
  double fewest = job.h.taps * job.w.taps / 16.0;  // parts, of 4 x 4 taps
  if (job.algorithm == Algorithm::automatic && choice.cost < kJob * fewest) return by_one();
  if (geometry.h.planes > 1) return by_one();  // whose columns are channels: a single one is left
  std::vector<AxisTable> h = AxisTable::forward_parts(geometry.h);
  std::vector<AxisTable> w = AxisTable::forward_parts(geometry.w);
  std::vector<std::pair<const WeightWay*, WeightJob>> parts;
  // Taps beside each other are stored one by one.
  double apart =
      job.c == 1 ? 0 : 4.0 * job.groups * job.filters * job.channels * job.h.taps * job.w.taps;
  bool minimal = false;
  for (const AxisTable& rows : h)
    for (const AxisTable& columns : w) {
      WeightJob part = part_of(job, rows.map(), columns.map(), scalar_size(dtype));
      Choice<WeightWay> some = choose(engine, part);
      apart += some.cost;
      minimal |= std::strcmp(some.way->name, "winograd") == 0;
      parts.emplace_back(some.way, part);
    }
  if (!minimal || apart >= choice.cost) return by_one();
  for (const auto& [part_way, part] : parts) f(*part_way, part);
  return apart;
}

void contract(const WeightWay& way, WeightJob job) {
  job.splits = way.splits(job);
  int64_t partial_size = way.partial_size(job);
  Memory own;
  job.partial = kept_block.get(partial_size, own);
  int64_t positions = job.segments * job.batch * job.h.positions * job.w.positions;
  int64_t work = positions * job.groups * job.filters * job.channels * job.h.taps * job.w.taps;
  for_products(way.tasks(job), work, way.scratch(job),
               [&](int64_t task, void* scratch) { way.run(job, task, scratch); });
  for_products(way.reduce_tasks(job), partial_size * kCopying, 0,
               [&](int64_t task, void*) { way.reduce(job, task); });
}

// One segment of a job, by a way that spreads nothing.
WeightJob directly(WeightJob job, int64_t segment, int64_t scalar_size) {
  job.input.data = advance(job.input.data, segment * job.batch * job.input.n * scalar_size);
  job.grad.data = advance(job.grad.data, segment * job.batch * job.grad.n * scalar_size);
  job.result = advance(job.result, segment * job.segment * scalar_size);
  job.segments = 1;
  job.exact = true;
  return job;
}

// A way of each job, joined.
class Names {
 public:
  void add(const char* name) { found_.insert(name); }
  std::string joined() const {
    std::string all;
    for (const std::string& name : found_) all += (all.empty() ? "" : "+") + name;
    return all;
  }

 private:
  std::set<std::string> found_;
};

// The ways of all jobs that run would do.
std::string names(const Engine& engine, CorrelateJob job, const std::vector<AxisTable>& h,
                  const std::vector<AxisTable>& w) {
  Names found;
  for_jobs(engine, job, h, w,
           [&](const CorrelateWay& way, const CorrelateJob&, int64_t) { found.add(way.name); });
  return found.joined();
}

std::string names(Dtype dtype, const Geometry& geometry, const WeightJob& job) {
  Names found;
  for_jobs(dtype, geometry, job,
           [&](const WeightWay& way, const WeightJob&) { found.add(way.name); });
  return found.joined();
}

// What full_convolve's two forms cost.
struct Forms {
  double gather, scatter;
  bool gathers() const { return gather <= scatter; }
};

Forms forms_of(const Engine& engine, const Geometry& geometry, const CorrelateJob& job,
               const std::vector<AxisTable>& h, const std::vector<AxisTable>& w) {
  AxisTable rows = AxisTable::forward(geometry.h), columns = AxisTable::forward(geometry.w);
  double scatter = cost_of(engine.scatter, make_scatter_job(job, rows.map(), columns.map()));
  if (job.algorithm == Algorithm::winograd) scatter = kNever;
  return {for_jobs(engine, job, h, w, [](auto&&...) {}), scatter};
}

void scatter(Dtype dtype, const Geometry& geometry, int64_t segments, const Array& grad,
             const FilterView& filter, const Array* bias, const Array& result) {
  const ScatterWay& way = engine_of(dtype).scatter;
  AxisTable h = AxisTable::forward(geometry.h), w = AxisTable::forward(geometry.w);
  ScatterJob job =
      make_scatter_job(make_job(dtype, geometry, segments, grad, bias, result), h.map(), w.map());
  int64_t products = job.h.positions * job.w.positions * job.h.taps * job.w.taps;
  int64_t work =
      grad.size[0] * result.size[1] * (products * job.filters + job.h.limit * job.w.limit);
  pack_and_run(way, job, filter, work);
}

// A layer as one of the contractions sees it.
struct Layer {
  Geometry geometry;
  Array input, filter;
};

// As given, as a 1x1 layer, or with the filter's columns as channels where that costs no more.
template <class Cost>
Layer seen(const Layer& given, const Cost& cost) {
  Layer other = given;
  if (flatten(other.geometry, other.input, other.filter)) return other;
  if (!columns_as_channels(other.geometry, other.input, other.filter)) return given;
  return cost(other) <= cost(given) ? other : given;
}

Layer seen_by_correlate(Dtype dtype, int64_t segments, const Layer& given, const Array& output) {
  return seen(given, [&](const Layer& layer) {
    return for_jobs(engine_of(dtype),
                    make_job(dtype, layer.geometry, segments, layer.input, nullptr, output),
                    {AxisTable::forward(layer.geometry.h)}, {AxisTable::forward(layer.geometry.w)},
                    [](auto&&...) {});
  });
}

// Its result is the input, all of whose columns must be channels, each of one position.
Layer seen_by_full_convolve(Dtype dtype, int64_t segments, const Layer& given, const Array& grad) {
  const Axis& w = given.geometry.w;
  bool tiled = w.stride == w.kernel && w.outputs() * w.kernel == w.size;
  return seen(given, [&](const Layer& layer) {
    const Geometry& geometry = layer.geometry;
    bool other = geometry.w.stride != w.stride;
    if (other && !(tiled && channels_last(given.input) && geometry.h.padding == Padding::zeros))
      return kNever;
    CorrelateJob job = make_job(dtype, geometry, segments, grad, nullptr, layer.input);
    Forms forms = forms_of(engine_of(dtype), geometry, job, AxisTable::adjoint(geometry.h),
                           AxisTable::adjoint(geometry.w));
    return std::min(forms.gather, forms.scatter);
  });
}

Layer seen_by_correlate_weight(Dtype dtype, int64_t segments, const Layer& given,
                               const Array& grad) {
  return seen(given, [&](const Layer& layer) {
    AxisTable h = AxisTable::forward(layer.geometry.h), w = AxisTable::forward(layer.geometry.w);
    WeightJob job =
        make_job(dtype, layer.geometry, segments, layer.input, grad, layer.filter, h, w);
    return for_jobs(dtype, layer.geometry, job, [](auto&&...) {});
  });
}

}  // namespace

void correlate(Dtype dtype, const Geometry& geometry, int64_t segments, const Array& input,
               const Array& filter, const Array* bias, const Array& result) {
  Layer layer = seen_by_correlate(dtype, segments, {geometry, input, filter}, result);
  FilterView rows = view_filter(layer.filter, components_of(dtype), geometry.groups);
  run(dtype, make_job(dtype, layer.geometry, segments, layer.input, bias, result), rows,
      {AxisTable::forward(layer.geometry.h)}, {AxisTable::forward(layer.geometry.w)});
}

void full_convolve(Dtype dtype, const Geometry& given, int64_t segments, const Array& grad,
                   const Array& filter, const Array* bias, const Array& result) {
  Layer layer{given, result, filter};
  if (!bias) layer = seen_by_full_convolve(dtype, segments, layer, grad);
  const Geometry& geometry = layer.geometry;
  FilterView rows = view_filter(layer.filter, components_of(dtype), geometry.groups);
  std::swap(rows.row, rows.depth);
  CorrelateJob job = make_job(dtype, geometry, segments, grad, bias, layer.input);
  // Mirrored padding has the scatter form alone.
  if (geometry.h.padding != Padding::zeros)
    return scatter(dtype, geometry, segments, grad, rows, bias, layer.input);
  std::vector<AxisTable> h = AxisTable::adjoint(geometry.h), w = AxisTable::adjoint(geometry.w);
  // The gather form multiplies a NaN or Inf in the filter with the zeros around the gradient too.
  if (!forms_of(engine_of(dtype), geometry, job, h, w).gathers() || run(dtype, job, rows, h, w))
    scatter(dtype, geometry, segments, grad, rows, bias, layer.input);
}

void correlate_weight(Dtype dtype, const Geometry& geometry, int64_t segments, const Array& input,
                      const Array& grad, const Array& filter) {
  Layer layer = seen_by_correlate_weight(dtype, segments, {geometry, input, filter}, grad);
  AxisTable h = AxisTable::forward(layer.geometry.h), w = AxisTable::forward(layer.geometry.w);
  WeightJob job = make_job(dtype, layer.geometry, segments, layer.input, grad, layer.filter, h, w);
  auto spread = std::make_unique<bool[]>(segments);
  job.spread = spread.get();
  auto contract_all = [&](const WeightJob& all) {
    for_jobs(dtype, layer.geometry, all, [](auto&&... part) { contract(part...); });
  };
  contract_all(job);
  for (int64_t segment = 0; segment < segments; ++segment)
    if (spread[segment]) contract_all(directly(job, segment, scalar_size(dtype)));
}

void channel_sum(Dtype dtype, const Array& grad, void* result) {
  const Engine& engine = engine_of(dtype);
  int64_t components = components_of(dtype);
  ChannelSumJob job{view(grad, components), result,       grad.size[0], grad.size[1],
                    grad.size[2],           grad.size[3], components};
  int64_t work = grad.size[0] * grad.size[1] * grad.size[2] * grad.size[3] * kCopying;
  for_products(engine.channel_sum_tasks(job), work, 0,
               [&](int64_t task, void*) { engine.channel_sum(job, task); });
}

Ways ways(Dtype dtype, const Geometry& geometry, int64_t segments, const Array& input,
          const Array& filter, const Array& output) {
  const Engine& engine = engine_of(dtype);
  Layer given{geometry, input, filter};
  Layer forward = seen_by_correlate(dtype, segments, given, output);
  CorrelateJob job = make_job(dtype, forward.geometry, segments, forward.input, nullptr, output);
  Layer backward = seen_by_full_convolve(dtype, segments, given, output);
  CorrelateJob adjoint =
      make_job(dtype, backward.geometry, segments, output, nullptr, backward.input);
  std::string names_of_adjoint = engine.scatter.name;
  if (backward.geometry.h.padding == Padding::zeros) {
    std::vector<AxisTable> rows = AxisTable::adjoint(backward.geometry.h);
    std::vector<AxisTable> columns = AxisTable::adjoint(backward.geometry.w);
    if (forms_of(engine, backward.geometry, adjoint, rows, columns).gathers())
      names_of_adjoint = names(engine, adjoint, rows, columns);
  }
  Layer weight = seen_by_correlate_weight(dtype, segments, given, output);
  AxisTable h = AxisTable::forward(weight.geometry.h), w = AxisTable::forward(weight.geometry.w);
  WeightJob weights =
      make_job(dtype, weight.geometry, segments, weight.input, output, weight.filter, h, w);
  return {names(engine, job, {AxisTable::forward(forward.geometry.h)},
                {AxisTable::forward(forward.geometry.w)}),
          names_of_adjoint, names(dtype, weight.geometry, weights)};
}

}  // namespace fullconv::cpu
