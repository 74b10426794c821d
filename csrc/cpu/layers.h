// ReLU and pooling on the CPU, for tensors whose shapes have been checked.
#pragma once

#include <cstdint>
#include <vector>

#include "../arrays.h"
#include "../strided.h"
#include "../windows.h"

namespace fullconv::cpu {

// result = x where that is not below 0, else 0; with a grad, that where x is above 0.
void relu(Element, const std::vector<int64_t>& size, const Strided& x, const Strided* grad,
          const Strided& result);

// The source is the input or, for max_scatter and average_adjoint, the output gradient. Indices
// are null where a kind has none.
void pool(Element, Pooling, const Pool&, const Array& source, const Array* indices,
          const Array& result);

}  // namespace fullconv::cpu
