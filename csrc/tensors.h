// What all registered ops need of tensors: checks, and results of the right memory format.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "huge_pages.h"

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

[[noreturn]] inline void no_memory(const std::vector<int64_t>& shape) {
  std::string sizes;
  for (int64_t size : shape) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
  throw std::runtime_error("torch_fullconv: can't allocate memory for a tensor of [" + sizes + "]");
}

// An empty tensor beside another, or an error that tells the size that there is no memory for.
inline Tensor empty_strided(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                            ScalarType dtype, const Tensor& like) {
  using torch::stable::detail::from, torch::stable::detail::to;
  int32_t device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle result;
  if (aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(),
                               to<int32_t>(from(dtype)), device_type, device_index, &result))
    no_memory(shape);
  Tensor tensor(result);
  if (tensor.is_cpu())
    ask_for_huge_pages(tensor.data_ptr(), tensor.numel() * tensor.element_size());
  return tensor;
}

inline Tensor empty(const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& like,
                    bool channels_last) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    size_t axis = channels_last ? std::array{1, 3, 2, 0}[i] : shape.size() - 1 - i;
    strides[axis] = stride;
    if (__builtin_mul_overflow(stride, std::max<int64_t>(shape[axis], channels_last ? 0 : 1),
                               &stride))
      no_memory(shape);
  }
  return empty_strided(shape, strides, dtype, like);
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
