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
// adjoint (position h of the input, index i into the output gradient), for zero padding:
//     i·stride = h + pad - r·dilation has a solution only where h + pad and r·dilation leave the
//     same remainder by the stride. So positions are split into classes by that remainder (the
//     phases of a strided convolution), each with the taps that it meets, and base = ⌊(h +
//     pad)/stride⌋, offset = -⌊r·dilation/stride⌋. No zero is ever inserted.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace fullconv {

// How to compute: the cheapest way, one that adds the products of the definition, or minimal
// filtering wherever it can be.
enum class Algorithm : int64_t { automatic, direct, winograd };

enum class Padding : int64_t { zeros, reflect, replicate, circular };

struct Axis {
  int64_t size;    // of the input: H or W
  int64_t kernel;  // of the filter: R or S
  int64_t stride, pad_before, pad_after, dilation;
  Padding padding;
  // Inputs of this size, one behind the other, each with a kernel of its own. AxisTable::forward
  // alone knows of them.
  int64_t planes = 1;

  // P or Q. With a kernel beyond the padded input this is 0 or less.
  int64_t outputs() const {
    int64_t span = size + pad_before + pad_after - dilation * (kernel - 1) - 1;
    return span < 0 ? 0 : span / stride + 1;
  }
};

#if defined(__CUDACC__)
#define FULLCONV_EVERYWHERE __host__ __device__
#else
#define FULLCONV_EVERYWHERE
#endif

// The input index that padded coordinate q shows, counted from the input's first element; -1 for a
// zero.
FULLCONV_EVERYWHERE inline int64_t shown_index(int64_t q, int64_t size, Padding padding) {
  if (q >= 0 && q < size) return q;
  switch (padding) {
    case Padding::zeros: return -1;
    case Padding::reflect: return q < 0 ? -q : 2 * (size - 1) - q;
    case Padding::replicate: return q < 0 ? 0 : size - 1;
    case Padding::circular: return q < 0 ? q + size : q - size;
  }
  return -1;
}

// Calls f(q) for every padded coordinate q that shows an input index, shown_index turned round.
template <class F>
FULLCONV_EVERYWHERE void for_showing(const Axis& axis, int64_t index, const F& f) {
  int64_t first = -axis.pad_before, end = axis.size + axis.pad_after;
  auto mirror = [&](int64_t q) {
    if (q >= first && q < end) f(q);
  };
  f(index);
  switch (axis.padding) {
    case Padding::zeros: break;
    case Padding::reflect:
      if (index > 0) mirror(-index);
      if (index < axis.size - 1) mirror(2 * (axis.size - 1) - index);
      break;
    case Padding::replicate:
      if (index == 0)
        for (int64_t q = first; q < 0; ++q) f(q);
      if (index == axis.size - 1)
        for (int64_t q = axis.size; q < end; ++q) f(q);
      break;
    case Padding::circular:
      mirror(index - axis.size);
      mirror(index + axis.size);
      break;
  }
}

// What kernels see of an axis. Plain pointers: this crosses into code of other instruction sets.
struct AxisMap {
  int64_t positions, taps;
  int64_t limit;                             // sources are indices below this
  Padding padding;                           // what lies outside
  int64_t step;                              // base[p + 1] - base[p], one number for all p
  const int64_t* base;                       // [positions]
  const int64_t* offset;                     // [taps]
  const std::pair<int64_t, int64_t>* inner;  // [taps] positions whose source is in bounds
  const int64_t* position;                   // [positions] index along the result's axis
  int64_t position_step;                     // position[p + 1] - position[p], or 0 if they differ
  const int64_t* tap;                        // [taps] index along the filter's axis
};

// Whether the one tap of an axis shows every position its own place in the source, none left out.
inline bool is_plain(const AxisMap& axis) {
  return axis.taps == 1 && axis.positions > 0 && axis.limit == axis.positions && axis.step == 1 &&
         axis.offset[0] + axis.base[0] == 0 &&
         axis.position[axis.positions - 1] == axis.positions - 1;
}

// An axis map without lists, for the maps whose positions and taps are evenly spaced: all that any
// tap reaches.
struct Progression {
  int64_t positions, taps;
  int64_t limit;
  Padding padding;
  int64_t base, step;               // base[p] + offset[0] = base + p·step
  int64_t tap_step;                 // offset[t] - offset[0] = t·tap_step
  int64_t position, position_step;  // position[p] = position + p·position_step
  int64_t tap, tap_stride;          // tap[t] = tap + t·tap_stride

  Progression() = default;

  explicit Progression(const AxisMap& map)
      : positions(map.positions),
        taps(map.taps),
        limit(map.limit),
        padding(map.padding),
        base(positions > 0 ? map.base[0] + (taps > 0 ? map.offset[0] : 0) : 0),
        step(map.step),
        tap_step(taps > 1 ? map.offset[1] - map.offset[0] : 0),
        position(positions > 0 ? map.position[0] : 0),
        position_step(map.position_step),
        tap(taps > 0 ? map.tap[0] : 0),
        tap_stride(taps > 1 ? map.tap[1] - map.tap[0] : 1) {}

  // Positions that each meet the index of their own.
  explicit Progression(int64_t size) : positions(size), taps(1), limit(size) {
    padding = Padding::zeros;
    base = tap_step = position = tap = 0;
    step = position_step = tap_stride = 1;
  }
};

class AxisTable {
 public:
  static AxisTable forward(const Axis& axis) {
    AxisTable table = forward_without_taps(axis);
    for (int64_t plane = 0; plane < axis.planes; ++plane)
      for (int64_t r = 0; r < axis.kernel; ++r) table.add_forward_tap(axis, r, plane);
    table.find_inner();
    return table;
  }

  // The same, cut into the phases of a strided convolution, which are the taps that leave the same
  // remainder, and these into parts of 2 to 4 neighbours: all that minimal filtering can do.
  static constexpr int64_t kPartTaps = 4;
  static bool has_parts(const Axis& axis) {
    return axis.kernel > (axis.stride > 1 ? 1 : kPartTaps);
  }
  static std::vector<AxisTable> forward_parts(const Axis& axis) {
    std::map<int64_t, std::vector<int64_t>> phases;
    for (int64_t r = 0; r < axis.kernel; ++r) phases[r * axis.dilation % axis.stride].push_back(r);
    std::vector<AxisTable> tables;
    for (const auto& [_, taps] : phases) {
      int64_t count = static_cast<int64_t>(taps.size());
      int64_t parts = (count + kPartTaps - 1) / kPartTaps;
      for (int64_t part = 0; part < parts; ++part) {
        AxisTable& table = tables.emplace_back(forward_without_taps(axis));
        for (int64_t i = count * part / parts; i < count * (part + 1) / parts; ++i)
          table.add_forward_tap(axis, taps[i]);
        table.find_inner();
      }
    }
    return tables;
  }

  static std::vector<AxisTable> adjoint(const Axis& axis) {
    std::map<int64_t, AxisTable> phases;
    AxisTable unreached(axis.outputs(), Padding::zeros);  // positions that no tap reaches
    for (int64_t r = 0; r < axis.kernel; ++r) {
      int64_t reach = r * axis.dilation;
      auto [phase, _] = phases.try_emplace(reach % axis.stride, unreached);
      phase->second.tap_.push_back(r);
      phase->second.offset_.push_back(-(reach / axis.stride));
    }
    for (int64_t h = 0; h < axis.size; ++h) {
      int64_t q = h + axis.pad_before;
      auto phase = phases.find(q % axis.stride);
      AxisTable& table = phase == phases.end() ? unreached : phase->second;
      table.position_.push_back(h);
      table.base_.push_back(q / axis.stride);
    }
    std::vector<AxisTable> tables;
    for (auto& [_, table] : phases)
      if (!table.position_.empty()) tables.push_back(std::move(table));
    if (!unreached.position_.empty()) tables.push_back(std::move(unreached));
    for (AxisTable& table : tables) {
      table.step_ = 1;
      table.find_inner();
    }
    return tables;
  }

  // All of an axis, which no tap reaches.
  static AxisTable without_taps(int64_t size) {
    AxisTable table(0, Padding::zeros);
    for (int64_t i = 0; i < size; ++i) {
      table.position_.push_back(i);
      table.base_.push_back(i);
    }
    return table;
  }

  AxisMap map() const {
    return {static_cast<int64_t>(position_.size()),
            static_cast<int64_t>(tap_.size()),
            limit_,
            padding_,
            step_,
            base_.data(),
            offset_.data(),
            inner_.data(),
            position_.data(),
            position_step(),
            tap_.data()};
  }

 private:
  AxisTable(int64_t limit, Padding padding) : limit_(limit), padding_(padding) {}

  static AxisTable forward_without_taps(const Axis& axis) {
    AxisTable table(axis.planes * axis.size, axis.padding);
    table.step_ = axis.stride;
    for (int64_t i = 0, count = axis.outputs(); i < count; ++i) {
      table.position_.push_back(i);
      table.base_.push_back(i * axis.stride);
    }
    return table;
  }
  void add_forward_tap(const Axis& axis, int64_t r, int64_t plane = 0) {
    tap_.push_back(plane * axis.kernel + r);
    offset_.push_back(plane * axis.size + r * axis.dilation - axis.pad_before);
  }

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
      if (count == 0) {
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

  int64_t limit_, step_ = 0;
  Padding padding_;
  std::vector<int64_t> base_, offset_, position_, tap_;
  std::vector<std::pair<int64_t, int64_t>> inner_;
};

// Every {output, tap, input} that meet along an axis: what the equations of a layer are made of.
// Forward and filter gradient walk the outputs' table. So does the input gradient by way of the
// scatter form, the only one where padding mirrors the input; the gather form walks the inputs'.
inline std::vector<std::array<int64_t, 3>> meetings(const Axis& axis, bool gather) {
  std::vector<std::array<int64_t, 3>> found;
  bool adjoint = gather && axis.padding == Padding::zeros;
  for (const AxisTable& table :
       adjoint ? AxisTable::adjoint(axis) : std::vector{AxisTable::forward(axis)}) {
    AxisMap map = table.map();
    for (int64_t p = 0; p < map.positions; ++p)
      for (int64_t t = 0; t < map.taps; ++t) {
        int64_t index = shown_index(map.base[p] + map.offset[t], map.limit, map.padding);
        if (index < 0) continue;
        int64_t position = map.position[p], tap = map.tap[t];
        if (adjoint)
          found.push_back({index, tap, position});
        else
          found.push_back({position, tap, index});
      }
  }
  return found;
}

}  // namespace fullconv
