// What all registered ops need of tensors: checks, and results of the right memory format.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

namespace fullconv {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check(bool good, const char* message) {
  if (!good) throw std::runtime_error(std::string("torch_fullconv: ") + message);
}

// Where a tensor's first element is. Its storage may have been freed or resized since it was made.
inline void* data_of(const Tensor& tensor) {
  int64_t elements = tensor.storage_offset() + 1, bytes = 0;
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
    if (tensor.size(axis) == 0) return tensor.data_ptr();
    elements += (tensor.size(axis) - 1) * tensor.stride(axis);
  }
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &bytes));
  check(elements <= bytes / static_cast<int64_t>(tensor.element_size()),
        "a tensor's storage was freed or is too small for it");
  return tensor.data_ptr();
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

// An empty tensor beside another, or an error that tells the size that there is no memory for.
inline Tensor empty(const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& like,
                    bool channels_last) {
  try {
    return torch::stable::empty(shape, dtype, std::nullopt, like.device(), std::nullopt,
                                channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                              : torch::headeronly::MemoryFormat::Contiguous);
  } catch (const std::exception&) {
    std::string sizes;
    for (int64_t size : shape) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
    throw std::runtime_error("torch_fullconv: can't allocate memory for a tensor of [" + sizes +
                             "]");
  }
}

// ops.py's _empty: channels_last where one of the operands is.
inline Tensor empty(const std::vector<int64_t>& shape, const Tensor& like,
                    std::initializer_list<const Tensor*> formats) {
  bool last = false;
  for (const Tensor* tensor : formats)
    last = last || (shape.size() == 4 && is_channels_last(*tensor));
  return empty(shape, like.scalar_type(), like, last);
}

}  // namespace fullconv
