// The registered ops: schemas, and ops.h's for CPU tensors by the contractions of cpu/.
#include "ops.h"

#include "cpu/contractions.h"
#include "cpu/engine.h"

namespace fullconv {
namespace {

struct Cpu {
  static constexpr const char* where = "tensors must be on the CPU";
  static bool holds(const Tensor& tensor, const Tensor&) { return tensor.is_cpu(); }

  explicit Cpu(const Tensor&) {}
  static constexpr auto correlate = cpu::correlate;
  static constexpr auto correlate_weight = cpu::correlate_weight;
  static constexpr auto full_convolve = cpu::full_convolve;
  static constexpr auto channel_sum = cpu::channel_sum;
};

// The ways of correlate, full_convolve and correlate_weight, a line each.
std::string ways(Tensor input, Tensor filter, FULLCONV_LAYER) {
  Forward t = Ops<Cpu>::make_forward(input, filter, FULLCONV_LAYER_VALUES);
  cpu::Ways ways = cpu::ways(t.dtype, t.geometry, t.segments, t.x, t.f, array_of(t.output));
  return ways.correlate + "\n" + ways.full_convolve + "\n" + ways.correlate_weight;
}

std::string instruction_set_name() { return instruction_set().name; }

#define FULLCONV_LAYER_SCHEMA                                                                    \
  "int groups, int stride_h, int stride_w, SymInt pad_top, SymInt pad_bottom, SymInt pad_left, " \
  "SymInt pad_right, int dilation_h, int dilation_w, int padding_mode, int algorithm, int "      \
  "allow_tf32"

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
  m.def("instruction_set() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(torch_fullconv, CPU, m) {
  fullconv::implement<fullconv::Cpu>(m);
  m.impl("ways", TORCH_BOX(&fullconv::ways));
}

STABLE_TORCH_LIBRARY_IMPL(torch_fullconv, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", TORCH_BOX(&fullconv::instruction_set_name));
}
