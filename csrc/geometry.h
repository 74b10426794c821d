// Where a filter meets its input: the one place where sizes and indices of a convolution are worked
// out.
//
// Along one axis, output position i and filter tap r meet padded coordinate q = i·stride +
// r·dilation, which shows input index q - pad, or what the padding mode puts there. Every
// contraction walks pairs (position, tap) and needs the third index. An AxisMap answers that from
// two small lists,
//
//     index = base[position] + offset[tap]      (then bounds, or the padding mode)
//
// forward (position i of the output, index into the input):
//     base = i·stride, offset = r·dilation - pad
// adjoint (position h of the input, index i into the output gradient): i·stride = q - r·dilation
// has
//     a solution only where q and r·dilation leave the same remainder by the stride. So positions
//     are split into classes by that remainder (the phases of a strided convolution), each with the
//     taps that it meets, and base = ⌊q/stride⌋, offset = -⌊r·dilation/stride⌋. No zero is ever
//     inserted. Reflecting, replicating and circular padding show one input index at several q:
//     these are the map's further copies, whose sources are added.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace fullconv {

enum class Padding : int64_t { zeros, reflect, replicate, circular };

struct Axis {
  int64_t size;    // of the input: H or W
  int64_t kernel;  // of the filter: R or S
  int64_t stride, pad_before, pad_after, dilation;
  Padding padding;

  // P or Q. With a kernel beyond the padded input this is 0 or less.
  int64_t outputs() const {
    int64_t span = size + pad_before + pad_after - dilation * (kernel - 1) - 1;
    return span < 0 ? 0 : span / stride + 1;
  }
};

// The input index that padded coordinate q shows, counted from the input's first element; -1 for a
// zero.
inline int64_t shown_index(int64_t q, int64_t size, Padding padding) {
  if (q >= 0 && q < size) return q;
  switch (padding) {
    case Padding::zeros: return -1;
    case Padding::reflect: return q < 0 ? -q : 2 * (size - 1) - q;
    case Padding::replicate: return q < 0 ? 0 : size - 1;
    case Padding::circular: return q < 0 ? q + size : q - size;
  }
  return -1;
}

// What kernels see of an axis. Plain pointers: this crosses into code of other instruction sets.
struct AxisMap {
  int64_t positions, taps, copies;
  int64_t limit;               // sources are indices below this
  Padding padding;             // what lies outside
  int64_t step;                // base[0][p + 1] - base[0][p] where that is one number, else 0
  const int64_t* base;         // [copies][positions]
  const int64_t* offset;       // [taps]
  const int64_t* residue;      // [copies][positions], or null where every tap fits every position
  const int64_t* tap_residue;  // [taps]
  const std::pair<int64_t, int64_t>*
      inner;                // [taps] positions whose source is base + offset, in bounds
  const int64_t* position;  // [positions] index along the result's axis
  int64_t position_step;    // position[p + 1] - position[p] where that is one number, else 0
  const int64_t* tap;       // [taps] index along the filter's axis
};

class AxisTable {
 public:
  static AxisTable forward(const Axis& axis) {
    AxisTable table(axis.size, axis.padding);
    table.step_ = axis.stride;
    for (int64_t i = 0, count = axis.outputs(); i < count; ++i) {
      table.position_.push_back(i);
      table.base_.push_back(i * axis.stride);
    }
    for (int64_t r = 0; r < axis.kernel; ++r) {
      table.tap_.push_back(r);
      table.offset_.push_back(r * axis.dilation - axis.pad_before);
    }
    table.find_inner();
    return table;
  }

  static std::vector<AxisTable> adjoint(const Axis& axis) {
    // The padded coordinates that show each input index, its own first.
    int64_t copies = 1;
    std::vector<std::vector<int64_t>> extra;
    if (axis.padding != Padding::zeros) {
      extra.resize(axis.size);
      auto show = [&](int64_t q) {
        auto& coordinates = extra[shown_index(q, axis.size, axis.padding)];
        coordinates.push_back(q + axis.pad_before);
        copies = std::max<int64_t>(copies, 1 + coordinates.size());
      };
      for (int64_t q = -axis.pad_before; q < 0; ++q) show(q);
      for (int64_t q = axis.size; q < axis.size + axis.pad_after; ++q) show(q);
    }
    auto copies_of = [&](int64_t h) {
      return extra.empty() ? 1 : 1 + static_cast<int64_t>(extra[h].size());
    };
    auto coordinate = [&](int64_t h, int64_t copy) {
      return copy == 0 ? h + axis.pad_before : extra[h][copy - 1];
    };
    // Classes of input positions, by the remainders that they leave.
    std::map<std::vector<int64_t>, std::vector<int64_t>> classes;
    if (axis.stride > 1) {
      for (int64_t h = 0; h < axis.size; ++h) {
        std::vector<int64_t> remainders;
        for (int64_t copy = 0; copy < copies_of(h); ++copy)
          remainders.push_back(coordinate(h, copy) % axis.stride);
        std::sort(remainders.begin(), remainders.end());
        remainders.erase(std::unique(remainders.begin(), remainders.end()), remainders.end());
        classes[remainders].push_back(h);
      }
    } else if (axis.size > 0) {
      auto& all = classes[{0}];
      for (int64_t h = 0; h < axis.size; ++h) all.push_back(h);
    }
    // Positions that no tap reaches make one class, however many remainders they leave.
    std::vector<AxisTable> tables;
    AxisTable unreached(axis.outputs(), Padding::zeros);
    for (auto& [remainders, positions] : classes) {
      AxisTable table(axis.outputs(), Padding::zeros);
      for (int64_t r = 0; r < axis.kernel; ++r) {
        int64_t residue = r * axis.dilation % axis.stride;
        if (!std::binary_search(remainders.begin(), remainders.end(), residue)) continue;
        table.tap_.push_back(r);
        table.offset_.push_back(-(r * axis.dilation / axis.stride));
        table.tap_residue_.push_back(residue);
      }
      auto& to = table.tap_.empty() ? unreached.position_ : table.position_;
      to.insert(to.end(), positions.begin(), positions.end());
      if (table.tap_.empty()) continue;
      table.copies_ = copies;
      table.step_ = copies == 1 ? 1 : 0;
      for (int64_t copy = 0; copy < copies; ++copy)
        for (int64_t h : positions) {
          bool there = copy < copies_of(h);
          table.base_.push_back(there ? coordinate(h, copy) / axis.stride : 0);
          if (copies > 1)
            table.residue_.push_back(there ? coordinate(h, copy) % axis.stride : kNowhere);
        }
      table.find_inner();
      tables.push_back(std::move(table));
    }
    if (!unreached.position_.empty()) tables.push_back(std::move(unreached));
    return tables;
  }

  AxisMap map() const {
    return {static_cast<int64_t>(position_.size()),
            static_cast<int64_t>(tap_.size()),
            copies_,
            limit_,
            padding_,
            step_,
            base_.data(),
            offset_.data(),
            residue_.empty() ? nullptr : residue_.data(),
            tap_residue_.data(),
            inner_.data(),
            position_.data(),
            position_step(),
            tap_.data()};
  }

 private:
  static constexpr int64_t kNowhere = -1;  // the residue of a copy that is not there: fits no tap

  AxisTable(int64_t limit, Padding padding) : limit_(limit), padding_(padding) {}

  int64_t position_step() const {
    if (position_.size() < 2) return 1;
    int64_t step = position_[1] - position_[0];
    for (size_t p = 2; p < position_.size(); ++p)
      if (position_[p] - position_[p - 1] != step) return 0;
    return step;
  }

  void find_inner() {
    int64_t count = static_cast<int64_t>(position_.size());
    for (int64_t offset : offset_) {
      if (step_ == 0 || count == 0) {
        inner_.emplace_back(0, 0);
        continue;
      }
      auto first_at = [&](int64_t index) {  // the first position whose source is >= index
        int64_t distance = index - base_[0] - offset;
        return distance <= 0 ? 0 : std::min(count, (distance + step_ - 1) / step_);
      };
      inner_.emplace_back(first_at(0), first_at(limit_));
    }
  }

  int64_t limit_, copies_ = 1, step_ = 0;
  Padding padding_;
  std::vector<int64_t> base_, offset_, residue_, tap_residue_, position_, tap_;
  std::vector<std::pair<int64_t, int64_t>> inner_;
};

}  // namespace fullconv
