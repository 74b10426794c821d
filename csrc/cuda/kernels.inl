// Launches of the kernels for one storage type. A .cu file for each includes this one.
#include "kernels.h"

namespace fullconv::cuda {
namespace {

inline int64_t quotient_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit; }

template <class JOB>
cudaError_t launch(void (*kernel)(JOB), int64_t blocks, int threads, size_t shared,
                   cudaStream_t stream, const JOB& job) {
  if (blocks == 0) return cudaSuccess;
  if (blocks > 0x7fffffff) return cudaErrorInvalidConfiguration;
  if (shared > 48 << 10)
    if (cudaError_t error = cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)))
      return error;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3{static_cast<unsigned>(blocks), 1, 1};
  config.blockDim = dim3{static_cast<unsigned>(threads), 1, 1};
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, job);
}

template <class KERNEL>
cudaError_t launch_tiles(const CorrelateJob& job, cudaStream_t stream) {
  int64_t blocks = job.row_tiles * job.position_tiles * job.phases() * job.groups * job.segments;
  return launch(correlate_tiles<KERNEL>, blocks, KERNEL::Multiply::kThreads,
                sizeof(typename KERNEL::Shared), stream, job);
}

template <class S>
struct Launch {
  static constexpr int kVector = 16 / sizeof(S);

  static cudaError_t pack_filter(CorrelateJob job, cudaStream_t stream) {
    int64_t count = job.segments * job.groups * job.phases() * job.terms * job.pitch;
    int64_t blocks = std::min<int64_t>(quotient_up(count, 256), 1 << 16);
    return launch(cuda::pack_filter<S>, blocks, 256, 0, stream, job);
  }

  template <class BY, int ROWS>
  static cudaError_t correlate(CorrelateJob job, const Way& way, cudaStream_t stream) {
    job.row_tiles = quotient_up(job.rows * job.components, ROWS);
    job.position_tiles = quotient_up(job.batch * job.most_positions(), BY::kColumns);
    if (way.along_channels)
      return way.vectors ? launch_tiles<Correlate<BY, ROWS, Along::depth, kVector>>(job, stream)
                         : launch_tiles<Correlate<BY, ROWS, Along::depth, 1>>(job, stream);
    return way.vectors ? launch_tiles<Correlate<BY, ROWS, Along::lanes, kVector>>(job, stream)
                       : launch_tiles<Correlate<BY, ROWS, Along::lanes, 1>>(job, stream);
  }

  template <class BY>
  static cudaError_t correlate(const CorrelateJob& job, const Way& way, cudaStream_t stream) {
    return tile_rows(job.rows * job.components) == 32 ? correlate<BY, 32>(job, way, stream)
                                                      : correlate<BY, 128>(job, way, stream);
  }

  static cudaError_t correlate(CorrelateJob job, const Way& way, cudaStream_t stream) {
    if constexpr (sizeof(S) == 2) return correlate<ByTensorCores<S>>(job, way, stream);
    if constexpr (sizeof(S) == 4)
      if (way.tensor_cores) return correlate<ByTensorCores<S>>(job, way, stream);
    if constexpr (sizeof(S) > 2) return correlate<ByScalars<S>>(job, way, stream);
  }

  static constexpr Kernels table{pack_filter, correlate};
};

}  // namespace
}  // namespace fullconv::cuda
