// The registered ops for CUDA tensors: ops.h by the contractions of launch.h, on the current
// stream.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "../ops.h"
#include "launch.h"

namespace fullconv {
namespace {

// torch's current stream of a device. The stable headers have it from torch 2.13 on; the shim is in
// every torch that has CUDA, and in no other.
void* current_stream(int32_t device) {
  using Shim = int32_t (*)(int32_t device, void** stream);
  static const auto shim =
      reinterpret_cast<Shim>(dlsym(RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream"));
  void* stream = nullptr;
  check(shim && shim(device, &stream) == 0, "this torch gives no CUDA stream");
  return stream;
}

class Cuda {
 public:
  static constexpr const char* where = "tensors must be on one CUDA device";
  static bool holds(const Tensor& tensor, const Tensor& first) {
    return tensor.is_cuda() && tensor.get_device_index() == first.get_device_index();
  }

  explicit Cuda(const Tensor& first)
      : guard_(first.get_device_index()),
        context_{
            current_stream(first.get_device_index()), false,
            [this, device = first.device()](int64_t bytes) { return allocate(bytes, device); }} {}

  template <class... Arguments>
  void correlate(const Arguments&... arguments) {
    expect(cuda::correlate(context_, arguments...));
  }
  template <class... Arguments>
  void correlate_weight(const Arguments&... arguments) {
    expect(cuda::correlate_weight(context_, arguments...));
  }
  template <class... Arguments>
  void full_convolve(const Arguments&... arguments) {
    expect(cuda::full_convolve(context_, arguments...));
  }
  template <class... Arguments>
  void channel_sum(const Arguments&... arguments) {
    expect(cuda::channel_sum(context_, arguments...));
  }

 private:
  static void expect(const char* problem) { check(!problem, problem); }

  // torch frees it once the work before the end of this object is done: it keeps to the stream.
  void* allocate(int64_t bytes, torch::stable::Device device) {
    scratch_.push_back(torch::stable::empty({bytes}, ScalarType::Byte, std::nullopt, device));
    return scratch_.back().mutable_data_ptr();
  }

  torch::stable::accelerator::DeviceGuard guard_;
  std::vector<Tensor> scratch_;
  cuda::Context context_;
};

}  // namespace
}  // namespace fullconv

STABLE_TORCH_LIBRARY_IMPL(torch_fullconv, CUDA, m) {
  using CudaOps = fullconv::Ops<fullconv::Cuda>;
  m.impl("correlate", TORCH_BOX(&CudaOps::correlate));
  m.impl("full_convolve", TORCH_BOX(&CudaOps::full_convolve));
  m.impl("correlate_weight", TORCH_BOX(&CudaOps::correlate_weight));
  m.impl("gradients", TORCH_BOX(&CudaOps::gradients));
  m.impl("channel_sum", TORCH_BOX(&CudaOps::channel_sum));
}
