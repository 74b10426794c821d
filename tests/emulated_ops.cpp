// The ops for CPU tensors by the emulated CUDA kernels: csrc/cuda/ops.cpp where there is no GPU.
// Once it is loaded, every test that runs an op tests csrc/cuda.
#include "../csrc/cuda/device.h"

namespace {

struct Emulated : fullconv::cuda::Contractions {
  static constexpr const char* where = "tensors must be on the CPU";
  static bool holds(const torch::stable::Tensor& tensor, const torch::stable::Tensor&) {
    return tensor.is_cpu();
  }
  explicit Emulated(const torch::stable::Tensor& first) : Contractions(nullptr, first.device()) {}
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torch_fullconv, CPU, m) {
  fullconv::implement<Emulated>(m);
  fullconv::implement_pooling<Emulated>(m);
}
