// The registered ops: schemas, and ops.h's for CPU tensors by the contractions of cpu/.
#include "ops.h"

#include <algorithm>
#include <array>
#include <string>
#include <tuple>
#include <vector>

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
  check(t.geometry.h.outputs() > 0 && t.geometry.w.outputs() > 0,
        "the kernel must fit into the padded input");
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
  constexpr int64_t most = 1 << 24;  // a table to be read by people has fewer
  for (const Axis& axis : {geometry.h, geometry.w})
    check(axis.size < most && axis.kernel < most && axis.outputs() <= most / axis.kernel,
          "the layer is too large");
  return {table(fullconv::meetings(geometry.h, gather)),
          table(fullconv::meetings(geometry.w, gather))};
}

std::string instruction_set_name() { return instruction_set().name; }

#define FULLCONV_LAYER_SCHEMA                                                            \
  "SymInt groups, SymInt stride_h, SymInt stride_w, SymInt pad_top, SymInt pad_bottom, " \
  "SymInt pad_left, SymInt pad_right, SymInt dilation_h, SymInt dilation_w, "            \
  "int padding_mode, int algorithm, int allow_tf32"

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
  fullconv::implement<fullconv::Cpu>(m);
  m.impl("ways", TORCH_BOX(&fullconv::ways));
}

STABLE_TORCH_LIBRARY_IMPL(torch_fullconv, CompositeExplicitAutograd, m) {
  m.impl("meetings", TORCH_BOX(&fullconv::layer_meetings));
  m.impl("instruction_set", TORCH_BOX(&fullconv::instruction_set_name));
}
