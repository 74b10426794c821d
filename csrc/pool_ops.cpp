// The registered ops of ReLU and pooling: schemas, and pool_ops.h's for CPU tensors.
#include "pool_ops.h"

#include "cpu/layers.h"

namespace fullconv {
namespace {

struct Cpu {
  static constexpr const char* where = "tensors must be on the CPU";
  static bool holds(const Tensor& tensor, const Tensor&) { return tensor.is_cpu(); }

  explicit Cpu(const Tensor&) {}
  static constexpr auto relu = cpu::relu;
  static constexpr auto pool = cpu::pool;
};

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

STABLE_TORCH_LIBRARY_IMPL(torch_fullconv, CPU, m) { fullconv::implement_pooling<fullconv::Cpu>(m); }
