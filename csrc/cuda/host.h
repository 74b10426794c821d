// What the host does for any kernel: views of tensors, launches, and words for what goes wrong.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "../views.h"
#include "gpu.h"
#include "launch.h"

namespace fullconv::cuda {

inline const char* message(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Returns from the caller if a step went wrong.
#define FULLCONV_TRY(step)                        \
  do {                                            \
    if (const char* wrong = (step)) return wrong; \
  } while (false)

inline cudaStream_t stream_of(const Context& context) {
  return static_cast<cudaStream_t>(context.stream);
}

inline int64_t quotient_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit; }

inline bool empty(const Array& array) {
  return array.size[0] * array.size[1] * array.size[2] * array.size[3] == 0;
}

// The strides of axes that no one steps along are 0, whatever the tensor says.
inline View view_of(const Array& array, int64_t components) {
  Array steps = array;
  for (int axis = 0; axis < 4; ++axis)
    if (array.size[axis] == 1) steps.stride[axis] = 0;
  return view(steps, components);
}

// Whether accesses of 16 bytes fit lines that lie these steps apart.
inline bool aligned(const View& view, int64_t scalar, std::initializer_list<int64_t> steps) {
  for (int64_t step : steps)
    if (step * scalar % 16 != 0) return false;
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
}
inline bool aligned_channels(const View& view, int64_t scalar, int64_t channels) {
  return view.c == 1 && aligned(view, scalar, {view.n, view.h, view.w, channels});
}

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

}  // namespace fullconv::cuda
