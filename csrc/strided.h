// Tensors of any number of axes, of which an operation takes each element by itself.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace fullconv {

struct Strided {
  void* data;
  std::vector<int64_t> stride;  // in elements
};

// Axes of all operands, in the result's order in memory; neighbours that lie like one are one.
struct Axes {
  std::vector<int64_t> size;
  std::vector<std::vector<int64_t>> stride;  // of each operand

  Axes(const std::vector<int64_t>& sizes, const std::vector<const Strided*>& operands)
      : stride(operands.size()) {
    std::vector<size_t> order(sizes.size());
    std::iota(order.begin(), order.end(), 0);
    const std::vector<int64_t>& result = operands.back()->stride;
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return result[a] > result[b]; });
    for (size_t axis : order)
      if (sizes[axis] != 1) add(sizes[axis], axis, operands);
  }

 private:
  void add(int64_t length, size_t axis, const std::vector<const Strided*>& operands) {
    bool joins = !size.empty();
    for (size_t i = 0; joins && i < operands.size(); ++i)
      joins = stride[i].back() == operands[i]->stride[axis] * length;
    if (joins)
      size.back() *= length;
    else
      size.push_back(length);
    for (size_t i = 0; i < operands.size(); ++i) {
      if (joins) stride[i].pop_back();
      stride[i].push_back(operands[i]->stride[axis]);
    }
  }
};

}  // namespace fullconv
