// launch.h's contractions and layers.h's layers as the Device of csrc/ops.h and csrc/pool_ops.h:
// scratch memory is torch's, and what went wrong is thrown.
#pragma once

#include "../ops.h"
#include "../pool_ops.h"
#include "launch.h"
#include "layers.h"

namespace fullconv::cuda {

class Contractions {
 public:
  Contractions(void* stream, torch::stable::Device device)
      : device_(device),
        context_{stream, false, [this](int64_t bytes) { return allocate(bytes); }} {}
  Contractions(const Contractions&) = delete;

  template <class... Rest>
  void correlate(Dtype dtype, const Geometry& geometry, const Rest&... rest) {
    expect(cuda::correlate(context_for(geometry), dtype, geometry, rest...));
  }
  template <class... Rest>
  void correlate_weight(Dtype dtype, const Geometry& geometry, const Rest&... rest) {
    expect(cuda::correlate_weight(context_for(geometry), dtype, geometry, rest...));
  }
  template <class... Rest>
  void full_convolve(Dtype dtype, const Geometry& geometry, const Rest&... rest) {
    expect(cuda::full_convolve(context_for(geometry), dtype, geometry, rest...));
  }
  void channel_sum(Dtype dtype, const Array& grad, void* result) {
    expect(cuda::channel_sum(context_, dtype, grad, result));
  }
  template <class... Rest>
  void relu(const Rest&... rest) {
    expect(cuda::relu(context_, rest...));
  }
  template <class... Rest>
  void pool(const Rest&... rest) {
    expect(cuda::pool(context_, rest...));
  }

 private:
  static void expect(const char* problem) { check(!problem, problem); }

  const Context& context_for(const Geometry& geometry) {
    context_.allow_tf32 = geometry.allow_tf32;
    return context_;
  }

  // Once this object is gone, torch gives the memory to later work on the stream.
  void* allocate(int64_t bytes) {
    scratch_.push_back(torch::stable::empty({bytes}, ScalarType::Byte, std::nullopt, device_));
    return scratch_.back().mutable_data_ptr();
  }

  torch::stable::Device device_;
  std::vector<Tensor> scratch_;
  Context context_;
};

}  // namespace fullconv::cuda
