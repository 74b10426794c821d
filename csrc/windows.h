// Where pooling windows meet their input: sizes and indices along one axis.
//
// Window i covers the input's indices i·stride - pad + r·dilation, r = 0 ... kernel - 1, as far as
// they lie in the input. A pooling layer reduces each window to one element; its gradient goes the
// other way, from each index of the input to the windows that cover it (the adjoint).
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "geometry.h"

namespace fullconv {

// INTEGER is what holds a size or an index: 64 bits, or where padded axes are known to be
// short, 32.
template <class INTEGER>
struct WindowOf {
  INTEGER size;  // of the input: H or W
  INTEGER kernel, stride, pad, dilation;
  bool ceil_mode;

  FULLCONV_EVERYWHERE INTEGER reach() const { return dilation * (kernel - 1); }

  // P or Q. In ceil_mode windows may end behind the padding, but must start before it.
  INTEGER outputs() const {
    INTEGER span = size + 2 * pad - reach() - 1 + (ceil_mode ? stride - 1 : 0);
    if (span < 0) return 0;
    INTEGER count = span / stride + 1;
    return ceil_mode && (count - 1) * stride >= size + pad ? count - 1 : count;
  }

  // The same windows as a convolution's axis, without the taps at both ends that meet only padding.
  Axis axis() const {
    INTEGER last = (outputs() - 1) * stride;
    INTEGER skipped = std::clamp<INTEGER>((pad - last) / dilation, 0, kernel - 1);
    INTEGER end = std::min(kernel, (size - 1 + pad) / dilation + 1);
    INTEGER taps = std::max<INTEGER>(end - skipped, 1), before = pad - skipped * dilation;
    INTEGER after = last + dilation * (taps - 1) + 1 - size - before;
    return {size, taps, stride, before, after, dilation, Padding::zeros};
  }

  // The first index of window i that is not before the input.
  FULLCONV_EVERYWHERE INTEGER first(INTEGER i) const {
    INTEGER start = i * stride - pad;
    return start >= 0 ? start : start + (-start + dilation - 1) / dilation * dilation;
  }

  // What its indices are below.
  FULLCONV_EVERYWHERE INTEGER end(INTEGER i) const {
    return std::min(size, i * stride - pad + reach() + 1);
  }

  // Windows begin, begin + step ... below end.
  struct Range {
    INTEGER begin, end, step;
  };

  // How far apart windows are that cover the same index: with dilation not each one in reach does.
  // Their greatest common divisor is by Euclid: std::gcd counts zero bits, by an instruction that
  // code for every processor has not.
  INTEGER period() const {
    INTEGER common = stride;
    for (INTEGER rest = dilation; rest != 0;) common = std::exchange(rest, common % rest);
    return dilation / common;
  }

  // Those of `outputs` windows that cover index x. by_stride divides by the stride.
  template <class DIVIDE>
  FULLCONV_EVERYWHERE Range covering(INTEGER x, INTEGER outputs, INTEGER period,
                                     const DIVIDE& by_stride) const {
    INTEGER padded = x + pad, last = padded - reach();
    INTEGER begin = last > 0 ? by_stride(last + stride - 1) : 0;
    INTEGER end = std::min<INTEGER>(outputs, by_stride(padded) + 1);
    if (dilation > 1) {
      INTEGER after = std::min(end, begin + period);
      while (begin < after && (padded - begin * stride) % dilation != 0) ++begin;
      if (begin == after) begin = end;
    }
    return {begin, end, period};
  }

  // What window i counts along this axis: its indices in the input, or in the padded input.
  FULLCONV_EVERYWHERE INTEGER extent(INTEGER i, bool with_padding) const {
    INTEGER start = i * stride - pad, end = std::min(start + kernel, size + pad);
    return with_padding ? end - start : std::min(end, size) - std::max<INTEGER>(start, 0);
  }
};
using Window = WindowOf<int64_t>;

// A pooling layer.
struct Pool {
  Window h, w;
  bool count_include_pad;  // of averages: what they divide by,
  int64_t divisor;         // or this, if it is not 0

  // Whether a window may meet no column, its taps being on both sides of them all. Its index of the
  // largest is, as stock's, that of another window's element, or of none.
  bool stray() const { return w.pad > 0 && w.dilation > w.size; }
};

// Each kind gives a result position what it meets in the source.
enum class Pooling {
  max,          // the largest; NaN counts as larger than all, the first of equals is taken
  max_indices,  // and its index in the input's plane
  max_gather,   // what has the index that the position chose, if any: max's derivative
  max_scatter,  // the sum of what chose the position's own index: the adjoint of that
  average,
  average_adjoint,
};
constexpr int64_t kPoolings = 6;

// The indices that each position meets: first[p], first[p] + step ... below end[p]. Plain data:
// this crosses into code of other instruction sets.
struct Meetings {
  int64_t positions;
  const int64_t *first, *end;  // [positions]
  int64_t step;
};

class MeetingTable {
 public:
  static MeetingTable forward(const Window& window) {
    int64_t outputs = window.outputs();
    MeetingTable table(outputs, window.dilation);
    for (int64_t i = 0; i < outputs; ++i)
      table.first_[i] = window.first(i), table.end_[i] = window.end(i);
    return table;
  }

  static MeetingTable adjoint(const Window& window) {
    int64_t outputs = window.outputs(), period = window.period();
    MeetingTable table(window.size, period);
    for (int64_t x = 0; x < window.size; ++x) {
      auto windows =
          window.covering(x, outputs, period, [&](int64_t index) { return index / window.stride; });
      table.first_[x] = windows.begin, table.end_[x] = windows.end;
    }
    return table;
  }

  Meetings meetings() const {
    return {static_cast<int64_t>(first_.size()), first_.data(), end_.data(), step_};
  }

 private:
  MeetingTable(int64_t positions, int64_t step) : first_(positions), end_(positions), step_(step) {}
  std::vector<int64_t> first_, end_;
  int64_t step_;
};

}  // namespace fullconv
