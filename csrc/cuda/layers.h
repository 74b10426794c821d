// ReLU and pooling on a CUDA device, for tensors whose shapes have been checked: cpu/layers.h with
// a stream, as launch.h. Results are the CPU's, bit for bit.
#pragma once

#include <vector>

#include "../strided.h"
#include "../windows.h"
#include "launch.h"

namespace fullconv::cuda {

// result = x where that is not below 0, else 0; with a grad, that where x is above 0.
const char* relu(const Context&, Element, const std::vector<int64_t>& size, const Strided& x,
                 const Strided* grad, const Strided& result);

// The source is the input or, for max_scatter and average_adjoint, the output gradient. Indices
// are null where a kind has none.
const char* pool(const Context&, Element, Pooling, const Pool&, const Array& source,
                 const Array* indices, const Array& result);

}  // namespace fullconv::cuda
