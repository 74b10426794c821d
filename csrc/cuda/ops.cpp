// The registered ops for CUDA tensors: ops.h and pool_ops.h by the kernels of device.h, on
// the current stream.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "device.h"

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

struct Cuda : cuda::Contractions {
  static constexpr const char* where = "tensors must be on one CUDA device";
  static bool holds(const Tensor& tensor, const Tensor& first) {
    return tensor.is_cuda() && tensor.get_device_index() == first.get_device_index();
  }

  explicit Cuda(const Tensor& first)
      : Contractions(current_stream(first.get_device_index()), first.device()),
        guard(first.get_device_index()) {}

  torch::stable::accelerator::DeviceGuard guard;
};

}  // namespace
}  // namespace fullconv

STABLE_TORCH_LIBRARY_IMPL(torch_fullconv, CUDA, m) {
  fullconv::implement<fullconv::Cuda>(m);
  fullconv::implement_pooling<fullconv::Cuda>(m);
}
