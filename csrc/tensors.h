// What all registered ops need of tensors: checks, and results of the right memory format.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

namespace fullconv {

using torch::stable::Tensor;

inline void check(bool good, const char* message) {
  if (!good) throw std::runtime_error(std::string("torch_fullconv: ") + message);
}

// Whether stock PyTorch takes the strides for channels_last: ops.py's _is_channels_last.
inline bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4 || tensor.stride(1) == 0) return false;
  int64_t least = 0;
  for (int64_t axis : {1, 3, 2, 0}) {
    int64_t size = tensor.size(axis), stride = tensor.stride(axis);
    if (size == 0 || stride < least || (axis == 0 && least == tensor.stride(1))) return false;
    least = size > 1 ? stride * size : stride;
  }
  return true;
}

// ops.py's _empty: channels_last where one of the operands is.
inline Tensor empty(const std::vector<int64_t>& shape, const Tensor& like,
                    std::initializer_list<const Tensor*> formats) {
  bool last = false;
  for (const Tensor* tensor : formats)
    last = last || (shape.size() == 4 && is_channels_last(*tensor));
  return torch::stable::empty(shape, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              last ? torch::headeronly::MemoryFormat::ChannelsLast
                                   : torch::headeronly::MemoryFormat::Contiguous);
}

}  // namespace fullconv
