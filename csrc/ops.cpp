// The registered ops: schemas, checks and results; the arithmetic is behind cpu/contractions.h.
//
// The integers between the tensors and the sizes are the geometry, in the order of ops.py's
// Geometry. Groups comes right behind the tensors, and no argument has a default: callers say all
// of it. Messages for users are functional.py's; the checks here keep a direct call of a raw op
// from touching memory it must not.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "cpu/contractions.h"
#include "cpu/engine.h"
#include "tensors.h"

namespace fullconv {
namespace {

using torch::headeronly::ScalarType;

Dtype dtype_of(const Tensor& tensor) {
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

void check_like(const Tensor& tensor, const Tensor& first) {
  check(tensor.scalar_type() == first.scalar_type(), "tensors must have one dtype");
  check(tensor.is_cpu(), "tensors must be on the CPU");
}

// A tensor's last four axes; a fifth before them is the segments'.
Array array_of(const Tensor& tensor) {
  int64_t skipped = tensor.dim() - 4;
  check(skipped == 0 || skipped == 1, "tensors must have four axes, filters four or five");
  auto sizes = tensor.sizes();
  auto strides = tensor.strides();
  Array array{tensor.data_ptr(), {}, {}, skipped ? strides[0] : 0};
  for (int64_t axis = 0; axis < 4; ++axis) {
    array.size[axis] = sizes[axis + skipped];
    array.stride[axis] = strides[axis + skipped];
  }
  return array;
}

std::optional<Array> array_of_bias(const std::optional<Tensor>& bias, const Tensor& first,
                                   int64_t channels) {
  if (!bias) return std::nullopt;
  check_like(*bias, first);
  check(bias->dim() == 1 && bias->size(0) == channels, "the bias must have one element a channel");
  return Array{bias->data_ptr(), {channels}, {bias->stride(0)}, 0};
}

struct Layer {
  int64_t groups, stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h,
      dilation_w, padding_mode, algorithm;

  // Bounds far above any tensor, so that sums and products of a few stay below 2^63. A stride
  // beyond them, which leaves one output, is as good as one at them; zeros behind the input may be
  // fewer than none, which leaves the input's end out.
  Axis axis(int64_t size, int64_t kernel, int64_t stride, int64_t before, int64_t after,
            int64_t dilation) const {
    constexpr int64_t most = int64_t{1} << 40;
    check(padding_mode >= 0 && padding_mode <= 3, "unknown padding mode");
    Padding padding = static_cast<Padding>(padding_mode);
    int64_t least = padding == Padding::zeros ? -size : 0;
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
    return {size, kernel, std::min(stride, most << 1), before, after, dilation, padding};
  }

  Geometry at(int64_t height, int64_t width, int64_t r, int64_t s) const {
    check(groups > 0, "groups must be positive");
    check(algorithm >= 0 && algorithm <= 2, "unknown algorithm");
    return {groups, axis(height, r, stride_h, pad_top, pad_bottom, dilation_h),
            axis(width, s, stride_w, pad_left, pad_right, dilation_w),
            static_cast<Algorithm>(algorithm)};
  }
};

int64_t segments_of(const Tensor& filter, int64_t batch) {
  int64_t segments = filter.dim() == 5 ? filter.size(0) : 1;
  check(segments > 0 ? batch % segments == 0 : batch == 0,
        "the batch must fall into equal segments");
  return segments;
}

void check_outputs(const Geometry& geometry, const Array& grad) {
  check(grad.size[2] == geometry.h.outputs() && grad.size[3] == geometry.w.outputs(),
        "the output gradient must have the output's size");
}

#define FULLCONV_LAYER                                                                     \
  int64_t groups, int64_t stride_h, int64_t stride_w, int64_t pad_top, int64_t pad_bottom, \
      int64_t pad_left, int64_t pad_right, int64_t dilation_h, int64_t dilation_w,         \
      int64_t padding_mode, int64_t algorithm
#define FULLCONV_LAYER_VALUES                                                                     \
  Layer {                                                                                         \
    groups, stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w, \
        padding_mode, algorithm                                                                   \
  }

// A forward pass that fits together, with its output still empty.
struct Forward {
  Dtype dtype;
  Array x, f;
  Geometry geometry;
  int64_t segments;
  Tensor output;
};

Forward make_forward(const Tensor& input, const Tensor& filter, const Layer& layer) {
  Dtype dtype = dtype_of(input);
  check_like(filter, input);
  check_like(input, input);
  Array x = array_of(input), f = array_of(filter);
  Geometry geometry = layer.at(x.size[2], x.size[3], f.size[2], f.size[3]);
  check(input.dim() == 4 && x.size[1] == f.size[1] * layer.groups && f.size[0] % layer.groups == 0,
        "channels must fit the filter and groups");
  int64_t segments = segments_of(filter, x.size[0]);
  Tensor output = empty({x.size[0], f.size[0], geometry.h.outputs(), geometry.w.outputs()}, input,
                        {&input, &filter});
  return {dtype, x, f, geometry, segments, output};
}

Tensor correlate(Tensor input, Tensor filter, std::optional<Tensor> bias, FULLCONV_LAYER) {
  Forward t = make_forward(input, filter, FULLCONV_LAYER_VALUES);
  std::optional<Array> b = array_of_bias(bias, input, t.f.size[0]);
  cpu::correlate(t.dtype, t.geometry, t.segments, t.x, t.f, b ? &*b : nullptr, array_of(t.output));
  return t.output;
}

// The ways of correlate, full_convolve and correlate_weight, a line each.
std::string ways(Tensor input, Tensor filter, FULLCONV_LAYER) {
  Forward t = make_forward(input, filter, FULLCONV_LAYER_VALUES);
  cpu::Ways ways = cpu::ways(t.dtype, t.geometry, t.segments, t.x, t.f, array_of(t.output));
  return ways.correlate + "\n" + ways.full_convolve + "\n" + ways.correlate_weight;
}

Tensor table(const std::vector<std::array<int64_t, 3>>& rows) {
  Tensor result = torch::stable::empty({static_cast<int64_t>(rows.size()), 3}, ScalarType::Long);
  int64_t* to = static_cast<int64_t*>(result.data_ptr());
  for (const auto& row : rows) to = std::copy(row.begin(), row.end(), to);
  return result;
}

// What meets along rows and columns, [meetings, 3] each.
std::tuple<Tensor, Tensor> layer_meetings(FULLCONV_LAYER, int64_t height, int64_t width,
                                          int64_t kernel_r, int64_t kernel_s, bool gather) {
  check(height >= 0 && width >= 0, "sizes must not be negative");
  Geometry geometry = FULLCONV_LAYER_VALUES.at(height, width, kernel_r, kernel_s);
  return {table(fullconv::meetings(geometry.h, gather)),
          table(fullconv::meetings(geometry.w, gather))};
}

std::string instruction_set_name() { return instruction_set().name; }

Tensor full_convolve(Tensor grad, Tensor filter, std::optional<Tensor> bias, FULLCONV_LAYER,
                     int64_t height, int64_t width) {
  Dtype dtype = dtype_of(grad);
  check_like(grad, grad);
  check_like(filter, grad);
  Array g = array_of(grad), f = array_of(filter);
  check(height >= 0 && width >= 0, "sizes must not be negative");
  Geometry geometry = FULLCONV_LAYER_VALUES.at(height, width, f.size[2], f.size[3]);
  check(grad.dim() == 4 && g.size[1] == f.size[0] && f.size[0] % groups == 0,
        "channels must fit the filter and groups");
  check_outputs(geometry, g);
  int64_t segments = segments_of(filter, g.size[0]);
  std::optional<Array> b = array_of_bias(bias, grad, f.size[1] * groups);
  Tensor input = empty({g.size[0], f.size[1] * groups, height, width}, grad, {&grad, &filter});
  cpu::full_convolve(dtype, geometry, segments, g, f, b ? &*b : nullptr, array_of(input));
  return input;
}

Tensor correlate_weight(Tensor input, Tensor grad, FULLCONV_LAYER, int64_t kernel_r,
                        int64_t kernel_s, std::optional<int64_t> segments) {
  Dtype dtype = dtype_of(input);
  check_like(input, input);
  check_like(grad, input);
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
  cpu::correlate_weight(dtype, geometry, segments.value_or(1), x, g, array_of(filter));
  return filter;
}

std::tuple<Tensor, Tensor> gradients(Tensor input, Tensor filter, Tensor grad, FULLCONV_LAYER) {
  Dtype dtype = dtype_of(input);
  check_like(input, input);
  check_like(filter, input);
  check_like(grad, input);
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
  cpu::full_convolve(dtype, geometry, segments, g, f, nullptr, array_of(for_input));
  cpu::correlate_weight(dtype, geometry, segments, x, g, array_of(for_filter));
  return {for_input, for_filter};
}

Tensor channel_sum(Tensor grad) {
  Dtype dtype = dtype_of(grad);
  check_like(grad, grad);
  check(grad.dim() == 4, "the output gradient must have four axes");
  Tensor sum = empty({grad.size(1)}, grad, {});
  cpu::channel_sum(dtype, array_of(grad), sum.data_ptr());
  return sum;
}

#define FULLCONV_LAYER_SCHEMA                                                                    \
  "int groups, int stride_h, int stride_w, SymInt pad_top, SymInt pad_bottom, SymInt pad_left, " \
  "SymInt pad_right, int dilation_h, int dilation_w, int padding_mode, int algorithm"

}  // namespace
}  // namespace fullconv

STABLE_TORCH_LIBRARY(torch_fullconv, m) {
  m.def("correlate(Tensor input, Tensor filter, Tensor? bias, " FULLCONV_LAYER_SCHEMA
        ") -> Tensor");
  m.def("full_convolve(Tensor grad, Tensor filter, Tensor? bias, " FULLCONV_LAYER_SCHEMA
        ", SymInt height, SymInt width) -> Tensor");
  m.def("correlate_weight(Tensor input, Tensor grad, " FULLCONV_LAYER_SCHEMA
        ", SymInt kernel_r, SymInt kernel_s, SymInt? segments) -> Tensor");
  m.def("gradients(Tensor input, Tensor filter, Tensor grad, " FULLCONV_LAYER_SCHEMA
        ") -> (Tensor, Tensor)");
  m.def("channel_sum(Tensor grad) -> Tensor");
  m.def("ways(Tensor input, Tensor filter, " FULLCONV_LAYER_SCHEMA ") -> str");
  m.def("meetings(" FULLCONV_LAYER_SCHEMA
        ", int height, int width, int kernel_r, int kernel_s, bool gather) -> (Tensor, Tensor)");
  m.def("instruction_set() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(torch_fullconv, CPU, m) {
  m.impl("correlate", TORCH_BOX(&fullconv::correlate));
  m.impl("full_convolve", TORCH_BOX(&fullconv::full_convolve));
  m.impl("correlate_weight", TORCH_BOX(&fullconv::correlate_weight));
  m.impl("gradients", TORCH_BOX(&fullconv::gradients));
  m.impl("channel_sum", TORCH_BOX(&fullconv::channel_sum));
  m.impl("ways", TORCH_BOX(&fullconv::ways));
}

STABLE_TORCH_LIBRARY_IMPL(torch_fullconv, CompositeExplicitAutograd, m) {
  m.impl("meetings", TORCH_BOX(&fullconv::layer_meetings));
  m.impl("instruction_set", TORCH_BOX(&fullconv::instruction_set_name));
}
