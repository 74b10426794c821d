// The registered ops of ReLU and pooling, as ops.cpp: schemas, checks and results.
//
// The integers are the window's geometry, in the order of ops.py's Windows, and for averages what
// they divide by.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "cpu/layers.h"
#include "tensors.h"

namespace fullconv {
namespace {

using torch::headeronly::ScalarType;

Element element_of(const Tensor& tensor) {
  check(tensor.is_cpu(), "tensors must be on the CPU");
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Element::f32;
    case ScalarType::Double: return Element::f64;
    case ScalarType::BFloat16: return Element::bf16;
    case ScalarType::Half: return Element::f16;
    case ScalarType::Char: return Element::i8;
    case ScalarType::Byte: return Element::u8;
    case ScalarType::Short: return Element::i16;
    case ScalarType::Int: return Element::i32;
    case ScalarType::Long: return Element::i64;
    default: throw std::runtime_error("torch_fullconv: tensors must be floating point or integer");
  }
}

std::vector<int64_t> sizes_of(const Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

cpu::Strided strided(const Tensor& tensor) {
  return {tensor.data_ptr(), {tensor.strides().begin(), tensor.strides().end()}};
}

Tensor relu(Tensor input) {
  Tensor result = torch::stable::empty_like(input);
  cpu::relu(element_of(input), sizes_of(input), strided(input), nullptr, strided(result));
  return result;
}

void relu_(Tensor input) {
  cpu::Strided in_place = strided(input);
  cpu::relu(element_of(input), sizes_of(input), in_place, nullptr, in_place);
}

Tensor relu_grad(Tensor grad, Tensor output) {
  check(grad.scalar_type() == output.scalar_type(), "tensors must have one dtype");
  check(grad.is_cpu(), "tensors must be on the CPU");
  check(sizes_of(grad) == sizes_of(output), "the output gradient must have the output's size");
  Tensor result = torch::stable::empty_like(output);
  cpu::Strided given = strided(grad);
  cpu::relu(element_of(output), sizes_of(output), strided(output), &given, strided(result));
  return result;
}

Array array_of(const Tensor& tensor) {
  check(tensor.dim() == 4, "tensors must have four axes");
  Array array{tensor.data_ptr(), {}, {}, 0};
  for (int64_t axis = 0; axis < 4; ++axis) {
    array.size[axis] = tensor.size(axis);
    array.stride[axis] = tensor.stride(axis);
  }
  return array;
}

struct Windows {
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, ceil_mode;

  // Bounds far above any tensor, so that sums and products of a few stay below 2^63.
  static Window axis(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation,
                     bool ceil_mode) {
    constexpr int64_t most = int64_t{1} << 40;
    check(size >= 0, "sizes must not be negative");
    check(kernel > 0 && stride > 0 && dilation > 0, "kernel, stride and dilation must be positive");
    check(pad >= 0 && kernel < most && pad < most && dilation < most,
          "padding must not be negative, and all must be smaller");
    int64_t reach;
    check(!__builtin_mul_overflow(dilation, kernel - 1, &reach) && reach < (most << 20),
          "kernel and dilation must be smaller");
    Window window{size, kernel, std::min(stride, most << 1), pad, dilation, ceil_mode};
    check(window.outputs() > 0, "the window must fit into the padded input");
    return window;
  }

  // Windows over an image; kernels tell elements of one apart by 31 bits.
  Pool over(int64_t height, int64_t width, bool count_include_pad, int64_t divisor) const {
    Pool pool{axis(height, kernel_h, stride_h, pad_h, dilation_h, ceil_mode != 0),
              axis(width, kernel_w, stride_w, pad_w, dilation_w, ceil_mode != 0), count_include_pad,
              divisor};
    constexpr int64_t most = int64_t{1} << 31;
    int64_t rows = std::min(pool.h.reach(), height) + 1;
    check(width < most && rows <= (most - 1) / std::max<int64_t>(width, 1),
          "a window must span fewer than 2^31 elements of a plane");
    return pool;
  }
};

#define FULLCONV_WINDOWS                                                                 \
  int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w, int64_t pad_h, \
      int64_t pad_w, int64_t dilation_h, int64_t dilation_w, int64_t ceil_mode
#define FULLCONV_WINDOWS_VALUES                                                             \
  Windows {                                                                                 \
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, ceil_mode \
  }

// The layer's output, in the input's memory format, with the result still empty.
Tensor empty_output(const Tensor& input, const Pool& pool, ScalarType dtype) {
  bool last = is_channels_last(input);
  return torch::stable::empty({input.size(0), input.size(1), pool.h.outputs(), pool.w.outputs()},
                              dtype, std::nullopt, input.device(), std::nullopt,
                              last ? torch::headeronly::MemoryFormat::ChannelsLast
                                   : torch::headeronly::MemoryFormat::Contiguous);
}

Tensor max_pool2d(Tensor input, FULLCONV_WINDOWS) {
  Array x = array_of(input);
  Pool pool = FULLCONV_WINDOWS_VALUES.over(x.size[2], x.size[3], false, 0);
  Element element = element_of(input);
  Tensor output = empty_output(input, pool, input.scalar_type());
  cpu::pool(element, Pooling::max, pool, x, nullptr, array_of(output));
  return output;
}

std::tuple<Tensor, Tensor> max_pool2d_indices(Tensor input, FULLCONV_WINDOWS) {
  Array x = array_of(input);
  Pool pool = FULLCONV_WINDOWS_VALUES.over(x.size[2], x.size[3], false, 0);
  Element element = element_of(input);
  Tensor output = empty_output(input, pool, input.scalar_type());
  Tensor indices = empty_output(input, pool, ScalarType::Long);
  Array chosen = array_of(indices);
  cpu::pool(element, Pooling::max_indices, pool, x, &chosen, array_of(output));
  return {output, indices};
}

void check_output(const Array& tensor, const Array& input, const Pool& pool) {
  check(tensor.size[0] == input.size[0] && tensor.size[1] == input.size[1] &&
            tensor.size[2] == pool.h.outputs() && tensor.size[3] == pool.w.outputs(),
        "indices and gradients must have the output's size");
}

void check_indices(const Tensor& indices) {
  check(indices.is_cpu() && indices.scalar_type() == ScalarType::Long,
        "indices must be 64-bit integers on the CPU");
}

Tensor max_gather(Tensor input, Tensor indices, FULLCONV_WINDOWS) {
  check_indices(indices);
  Array x = array_of(input), chosen = array_of(indices);
  Pool pool = FULLCONV_WINDOWS_VALUES.over(x.size[2], x.size[3], false, 0);
  check_output(chosen, x, pool);
  Element element = element_of(input);
  Tensor output = empty_output(input, pool, input.scalar_type());
  cpu::pool(element, Pooling::max_gather, pool, x, &chosen, array_of(output));
  return output;
}

// The adjoints: from an output gradient to the input's, in the gradient's memory format.
Tensor empty_input(const Tensor& grad, int64_t height, int64_t width) {
  return empty({grad.size(0), grad.size(1), height, width}, grad, {&grad});
}

Tensor max_scatter(Tensor grad, Tensor indices, FULLCONV_WINDOWS, int64_t height, int64_t width) {
  check_indices(indices);
  Array g = array_of(grad), chosen = array_of(indices);
  Pool pool = FULLCONV_WINDOWS_VALUES.over(height, width, false, 0);
  check_output(g, g, pool);
  check_output(chosen, g, pool);
  Element element = element_of(grad);
  Tensor input = empty({g.size[0], g.size[1], height, width}, grad, {&indices});
  cpu::pool(element, Pooling::max_scatter, pool, g, &chosen, array_of(input));
  return input;
}

void check_average(const Pool& pool) {
  check(pool.h.dilation == 1 && pool.w.dilation == 1, "averages have no dilation");
}

Tensor avg_pool2d(Tensor input, FULLCONV_WINDOWS, bool count_include_pad, int64_t divisor) {
  Array x = array_of(input);
  Pool pool = FULLCONV_WINDOWS_VALUES.over(x.size[2], x.size[3], count_include_pad, divisor);
  check_average(pool);
  Element element = element_of(input);
  Tensor output = empty_output(input, pool, input.scalar_type());
  cpu::pool(element, Pooling::average, pool, x, nullptr, array_of(output));
  return output;
}

Tensor avg_pool2d_adjoint(Tensor grad, FULLCONV_WINDOWS, bool count_include_pad, int64_t divisor,
                          int64_t height, int64_t width) {
  Array g = array_of(grad);
  Pool pool = FULLCONV_WINDOWS_VALUES.over(height, width, count_include_pad, divisor);
  check_average(pool);
  check_output(g, g, pool);
  Element element = element_of(grad);
  Tensor input = empty_input(grad, height, width);
  cpu::pool(element, Pooling::average_adjoint, pool, g, nullptr, array_of(input));
  return input;
}

#define FULLCONV_WINDOWS_SCHEMA                                                        \
  "SymInt kernel_h, SymInt kernel_w, SymInt stride_h, SymInt stride_w, SymInt pad_h, " \
  "SymInt pad_w, SymInt dilation_h, SymInt dilation_w, int ceil_mode"

}  // namespace
}  // namespace fullconv

STABLE_TORCH_LIBRARY_FRAGMENT(torch_fullconv, m) {
  m.def("relu(Tensor input) -> Tensor");
  m.def("relu_(Tensor(a!) input) -> ()");
  m.def("relu_grad(Tensor grad, Tensor output) -> Tensor");
  m.def("max_pool2d(Tensor input, " FULLCONV_WINDOWS_SCHEMA ") -> Tensor");
  m.def("max_pool2d_indices(Tensor input, " FULLCONV_WINDOWS_SCHEMA ") -> (Tensor, Tensor)");
  m.def("max_gather(Tensor input, Tensor indices, " FULLCONV_WINDOWS_SCHEMA ") -> Tensor");
  m.def("max_scatter(Tensor grad, Tensor indices, " FULLCONV_WINDOWS_SCHEMA
        ", SymInt height, SymInt width) -> Tensor");
  m.def("avg_pool2d(Tensor input, " FULLCONV_WINDOWS_SCHEMA
        ", bool count_include_pad, SymInt divisor) -> Tensor");
  m.def("avg_pool2d_adjoint(Tensor grad, " FULLCONV_WINDOWS_SCHEMA
        ", bool count_include_pad, SymInt divisor, SymInt height, SymInt width) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(torch_fullconv, CPU, m) {
  m.impl("relu", TORCH_BOX(&fullconv::relu));
  m.impl("relu_", TORCH_BOX(&fullconv::relu_));
  m.impl("relu_grad", TORCH_BOX(&fullconv::relu_grad));
  m.impl("max_pool2d", TORCH_BOX(&fullconv::max_pool2d));
  m.impl("max_pool2d_indices", TORCH_BOX(&fullconv::max_pool2d_indices));
  m.impl("max_gather", TORCH_BOX(&fullconv::max_gather));
  m.impl("max_scatter", TORCH_BOX(&fullconv::max_scatter));
  m.impl("avg_pool2d", TORCH_BOX(&fullconv::avg_pool2d));
  m.impl("avg_pool2d_adjoint", TORCH_BOX(&fullconv::avg_pool2d_adjoint));
}
