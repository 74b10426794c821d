// Where pooling windows meet their input: sizes and indices along one axis.
//
// Window i covers the input's indices i·stride - pad + r·dilation, r = 0 ... kernel - 1, as far as
// they lie in the input. A pooling layer reduces each window to one element; its gradient goes the
// other way, from each index of the input to the windows that cover it (the adjoint).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "geometry.h"

namespace fullconv {

struct Window {
  int64_t size;  // of the input: H or W
  int64_t kernel, stride, pad, dilation;
  bool ceil_mode;

  int64_t reach() const { return dilation * (kernel - 1); }

  // P or Q. In ceil_mode windows may end behind the padding, but must start before it.
  int64_t outputs() const {
    int64_t span = size + 2 * pad - reach() - 1 + (ceil_mode ? stride - 1 : 0);
    if (span < 0) return 0;
    int64_t count = span / stride + 1;
    return ceil_mode && (count - 1) * stride >= size + pad ? count - 1 : count;
  }

  // The same windows as a convolution's axis.
  Axis axis() const {
    int64_t after = (outputs() - 1) * stride + reach() + 1 - size - pad;
    return {size, kernel, stride, pad, after, dilation, Padding::zeros};
  }

  // The first index of window i that is not before the input.
  int64_t first(int64_t i) const {
    int64_t start = i * stride - pad;
    return start >= 0 ? start : start + (-start + dilation - 1) / dilation * dilation;
  }

  // What window i counts along this axis: its indices in the input, or in the padded input.
  int64_t extent(int64_t i, bool with_padding) const {
    int64_t start = i * stride - pad, end = std::min(start + kernel, size + pad);
    return with_padding ? end - start : std::min(end, size) - std::max<int64_t>(start, 0);
  }
};

// The indices that each position meets, in ascending order: index[begin[p]] ... index[begin[p + 1]
// - 1]. Plain data: this crosses into code of other instruction sets.
struct Meetings {
  int64_t positions;
  const int64_t* begin;  // [positions + 1]
  const int64_t* index;
};

class MeetingTable {
 public:
  static MeetingTable forward(const Window& window) {
    MeetingTable table;
    for (int64_t i = 0, count = window.outputs(); i < count; ++i) {
      int64_t start = i * window.stride - window.pad;
      int64_t end = std::min(window.size, start + window.reach() + 1);
      for (int64_t x = window.first(i); x < end; x += window.dilation) table.index_.push_back(x);
      table.begin_.push_back(static_cast<int64_t>(table.index_.size()));
    }
    return table;
  }

  static MeetingTable adjoint(const Window& window) {
    MeetingTable outputs = forward(window), table;
    Meetings windows = outputs.meetings();
    table.begin_.resize(window.size + 1);
    for (int64_t x : outputs.index_) ++table.begin_[x + 1];
    for (int64_t x = 0; x < window.size; ++x) table.begin_[x + 1] += table.begin_[x];
    table.index_.resize(outputs.index_.size());
    std::vector<int64_t> next = table.begin_;
    for (int64_t i = 0; i < windows.positions; ++i)
      for (int64_t k = windows.begin[i]; k < windows.begin[i + 1]; ++k)
        table.index_[next[windows.index[k]]++] = i;
    return table;
  }

  Meetings meetings() const {
    return {static_cast<int64_t>(begin_.size()) - 1, begin_.data(), index_.data()};
  }

 private:
  std::vector<int64_t> begin_{0}, index_;
};

}  // namespace fullconv
