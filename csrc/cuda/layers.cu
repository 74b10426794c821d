// Describes ReLU and pooling to their kernels as jobs, and launches them.
#include "layers.h"

#include <algorithm>

#include "host.h"
#include "pool.cuh"
#include "relu.cuh"

namespace fullconv::cuda {
namespace {

// Kernels number their threads in 32 bits; what has more is launched in parts.
constexpr int64_t kMostThreads = int64_t{1} << 30;

template <class JOB>
const char* start(const Context& context, void (*kernel)(JOB), int64_t threads, const JOB& job) {
  return message(launch(kernel, quotient_up(threads, kElementThreads), kElementThreads, 0,
                        stream_of(context), job));
}

// f, for the type of the elements.
template <class F>
const char* with(Element element, const F& f) {
  switch (element) {
    case Element::f32: return f.template operator()<float>();
    case Element::f64: return f.template operator()<double>();
    case Element::bf16: return f.template operator()<__nv_bfloat16>();
    case Element::f16: return f.template operator()<__half>();
    case Element::i8: return f.template operator()<int8_t>();
    case Element::u8: return f.template operator()<uint8_t>();
    case Element::i16: return f.template operator()<int16_t>();
    case Element::i32: return f.template operator()<int32_t>();
    case Element::i64: return f.template operator()<int64_t>();
  }
  return "unknown element";
}

template <class S>
constexpr int kVector = std::is_integral_v<S> ? 1 : 16 / sizeof(S);

template <class S>
void* moved(const void* data, int64_t elements) {
  return const_cast<S*>(static_cast<const S*>(data) + elements);
}

// Element by element, along axes.
template <class S>
const char* relu_along(const Context& context, Axes axes, ReluJob job) {
  job.elements = 1;
  for (int64_t size : axes.size) job.elements *= size;
  if (job.elements > kMostThreads) {
    size_t axis = std::max_element(axes.size.begin(), axes.size.end()) - axes.size.begin();
    int64_t whole = axes.size[axis], half = whole / 2;
    axes.size[axis] = half;
    FULLCONV_TRY(relu_along<S>(context, axes, job));
    axes.size[axis] = whole - half;
    job.x = moved<S>(job.x, half * axes.stride[0][axis]);
    if (job.grad) job.grad = moved<S>(job.grad, half * axes.stride[1][axis]);
    job.result = moved<S>(job.result, half * axes.stride[2][axis]);
    return relu_along<S>(context, axes, job);
  }
  job.axes = static_cast<int>(axes.size.size());
  for (int axis = 0; axis < job.axes; ++axis) {
    job.size[axis] = Divider(axes.size[axis]);
    job.x_stride[axis] = axes.stride[0][axis];
    job.grad_stride[axis] = axes.stride[1][axis];
    job.result_stride[axis] = axes.stride[2][axis];
  }
  return start(context, relu_elements<S, 1>, job.elements, job);
}

// Whether all operands lie without gaps, for accesses of 16 bytes.
bool whole(const Axes& axes, const ReluJob& job) {
  for (const void* data : {job.x, job.grad, static_cast<const void*>(job.result)})
    if (reinterpret_cast<uintptr_t>(data) % 16 != 0) return false;
  return axes.size.size() == 1 && axes.stride[0][0] == 1 && axes.stride[1][0] == 1 &&
         axes.stride[2][0] == 1;
}

// Kernels keep coordinates in 32 bits.
const char* make_axis(const Window& window, PoolAxis& axis) {
  constexpr int64_t most = int64_t{1} << 28;
  if (window.size >= most || window.pad >= most || window.reach() >= most)
    return "on CUDA, an axis and its padding must be shorter than 2^28, and so must a window";
  int64_t outputs = window.outputs();
  // Where there is one window, no one steps to the next; in a window of one, to no other element.
  int64_t stride = outputs > 1 ? window.stride : 1;
  int64_t dilation = window.kernel > 1 ? window.dilation : 1;
  axis.window = {static_cast<int>(window.size), static_cast<int>(window.kernel),
                 static_cast<int>(stride),      static_cast<int>(window.pad),
                 static_cast<int>(dilation),    window.ceil_mode};
  axis.outputs = static_cast<int>(outputs);
  axis.period = axis.window.period();
  axis.stride = Divider(stride);
  return nullptr;
}

struct Results {
  int64_t batch, channels, rows, columns;  // channels count vectors
  int64_t count() const { return batch * channels * rows * columns; }
};

template <class S, Pooling POOLING, int VECTOR>
const char* run(const Context& context, PoolJob job, Results results) {
  int64_t* size = results.batch > 1      ? &results.batch
                  : results.channels > 1 ? &results.channels
                                         : &results.rows;
  if (results.count() > kMostThreads && *size > 1) {
    int64_t whole = *size, half = whole / 2;
    *size = half;
    FULLCONV_TRY((run<S, POOLING, VECTOR>(context, job, results)));
    *size = whole - half;
    if (size == &results.rows) {
      job.first_row += static_cast<int>(half);
    } else {
      auto move = [&]<class E>(View& view, E) {
        int64_t step = size == &results.batch ? view.n : view.c * VECTOR;
        view.data = moved<E>(view.data, half * step);
      };
      move(job.source, S{}), move(job.result, S{}), move(job.indices, int64_t{});
    }
    return run<S, POOLING, VECTOR>(context, job, results);
  }
  job.results = static_cast<uint32_t>(results.count());
  job.channels = Divider(results.channels);
  job.rows = Divider(results.rows);
  job.columns = Divider(results.columns);
  return start(context, pool_results<S, POOLING, VECTOR>, job.results, job);
}

template <class S, Pooling POOLING>
const char* run(const Context& context, const PoolJob& job, const Array& result) {
  Results results{result.size[0], result.size[1], result.size[2], result.size[3]};
  if constexpr (kVector<S> > 1) {
    int64_t channels = results.channels;
    if (aligned_channels(job.source, sizeof(S), channels) &&
        aligned_channels(job.result, sizeof(S), channels) &&
        (!job.indices.data || aligned_channels(job.indices, sizeof(int64_t), channels))) {
      results.channels /= kVector<S>;
      return run<S, POOLING, kVector<S>>(context, job, results);
    }
  }
  return run<S, POOLING, 1>(context, job, results);
}

// The kinds that a type has: only max and, for 64 bits, average take integers.
template <class S>
const char* run(const Context& context, Pooling pooling, const PoolJob& job, const Array& result) {
  if (pooling == Pooling::max || pooling == Pooling::max_indices)
    return run<S, Pooling::max>(context, job, result);
  if constexpr (!std::is_integral_v<S> || sizeof(S) == 8)
    if (pooling == Pooling::average) return run<S, Pooling::average>(context, job, result);
  if constexpr (!std::is_integral_v<S>) {
    if (pooling == Pooling::max_gather) return run<S, Pooling::max_gather>(context, job, result);
    if (pooling == Pooling::max_scatter) return run<S, Pooling::max_scatter>(context, job, result);
    if (pooling == Pooling::average_adjoint)
      return run<S, Pooling::average_adjoint>(context, job, result);
  }
  return "this layer does not take the dtype";
}

}  // namespace

const char* relu(const Context& context, Element element, const std::vector<int64_t>& size,
                 const Strided& x, const Strided* grad, const Strided& result) {
  Axes axes(size, {&x, grad ? grad : &x, &result});
  ReluJob job{};
  job.x = x.data, job.grad = grad ? grad->data : nullptr, job.result = result.data;
  if (std::find(size.begin(), size.end(), 0) != size.end()) return nullptr;
  if (axes.size.size() > kMostAxes) return "on CUDA, tensors must have at most 25 axes";
  return with(element, [&]<class S>() -> const char* {
    if (kVector<S> == 1 || !whole(axes, job)) return relu_along<S>(context, axes, job);
    job.elements = axes.size[0];
    return start(context, relu_elements<S, kVector<S>>, quotient_up(job.elements, kVector<S>), job);
  });
}

const char* pool(const Context& context, Element element, Pooling pooling, const Pool& pool,
                 const Array& source, const Array* indices, const Array& result) {
  if (empty(result)) return nullptr;
  PoolJob job{};
  FULLCONV_TRY(make_axis(pool.h, job.h));
  FULLCONV_TRY(make_axis(pool.w, job.w));
  job.h.all = job.w.all = pooling == Pooling::max_scatter && pool.stray();
  job.source = view_of(source, 1);
  job.result = view_of(result, 1);
  if (indices) job.indices = view_of(*indices, 1);
  job.width = Divider(pool.w.size);
  job.channels_first = job.result.c != 1;
  job.count_include_pad = pool.count_include_pad;
  job.divisor = pool.divisor;
  return with(element, [&]<class S>() { return run<S>(context, pooling, job, result); });
}

}  // namespace fullconv::cuda
