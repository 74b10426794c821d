// What the host side of a contraction needs of kernels.inl: its functions for one storage type.
#pragma once

#include "correlate.cuh"
#include "correlate_weight.cuh"
#include "fold.cuh"

namespace fullconv::cuda {

// A kernel among those that compute the same: the unit, which index of the source its tiles lie
// along, whether they are copied 16 bytes at once.
struct Way {
  bool tensor_cores;
  bool along_channels;  // else positions
  bool vectors;
};

// The same of depthwise.cuh's, whose threads take channels or positions.
struct DirectWay {
  bool along_channels;
  bool vectors;  // of channels

  int64_t channels(int64_t scalar) const {  // of a block
    return vectors ? 8 * 16 / scalar : along_channels ? 32 : 1;
  }
};

struct Kernels {
  cudaError_t (*pack_filter)(const CorrelateJob&, cudaStream_t);
  cudaError_t (*correlate)(const CorrelateJob&, const Way&, cudaStream_t);
  cudaError_t (*correlate_without_zeros)(const CorrelateJob&, cudaStream_t);
  cudaError_t (*correlate_weight)(const WeightJob&, const Way&, cudaStream_t);
  cudaError_t (*reduce_splits)(const WeightJob&, cudaStream_t);
  cudaError_t (*depthwise)(CorrelateJob, const DirectWay&, cudaStream_t);
  cudaError_t (*depthwise_weight)(WeightJob, const DirectWay&, cudaStream_t);
  cudaError_t (*channel_sum)(WeightJob, const DirectWay&, cudaStream_t);
  cudaError_t (*fold_padding)(const FoldJob&, cudaStream_t);
};

extern const Kernels kernels_f32, kernels_f64, kernels_bf16, kernels_f16;

// Rows of a kernel's tiles: few where most of a larger one would be idle.
inline int64_t tile_rows(int64_t rows, bool tensor_cores) {
  return rows <= 32 ? 32 : tensor_cores ? 128 : 64;
}

constexpr int64_t kMostDepth = 32, kMostColumns = 128;  // of any tile

}  // namespace fullconv::cuda
