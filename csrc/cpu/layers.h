// ReLU and pooling on the CPU, for tensors whose shapes have been checked.
#pragma once

#include <cstdint>
#include <vector>

#include "../windows.h"
#include "contractions.h"
#include "pooling.h"

namespace fullconv {

struct Pool {
  Window h, w;
  bool count_include_pad;  // of averages: what they divide by,
  int64_t divisor;         // or this, if it is not 0
};

namespace cpu {

// A tensor of any number of axes; strides count elements.
struct Strided {
  void* data;
  std::vector<int64_t> stride;
};

// result = x where that is not below 0, else 0; with a grad, that where x is above 0.
void relu(Element, const std::vector<int64_t>& size, const Strided& x, const Strided* grad,
          const Strided& result);

// The source is the input or, for max_scatter and average_adjoint, the output gradient. Indices
// are null where a kind has none.
void pool(Element, Pooling, const Pool&, const Array& source, const Array* indices,
          const Array& result);

}  // namespace cpu
}  // namespace fullconv
