// Launches of the kernels for one storage type. A .cu file for each includes this one.
#include "depthwise.cuh"
#include "host.h"
#include "kernels.h"

namespace fullconv::cuda {
namespace {

template <class KERNEL>
cudaError_t launch_tiles(CorrelateJob job, cudaStream_t stream) {
  job.row_tiles = quotient_up(job.rows * job.components, KERNEL::A::kLanes);
  job.position_tiles = quotient_up(job.most_positions(), KERNEL::kColumns);
  int64_t blocks = job.row_tiles * job.position_tiles * job.phases() * job.groups * job.segments;
  return launch(correlate_tiles<KERNEL>, blocks, KERNEL::Multiply::kThreads,
                sizeof(typename KERNEL::Shared), stream, job);
}

template <class KERNEL>
cudaError_t launch_tiles(WeightJob job, cudaStream_t stream) {
  job.row_tiles = quotient_up(job.rows(), KERNEL::A::kLanes);
  job.column_tiles = quotient_up(job.terms(), KERNEL::kColumns);
  int64_t blocks = job.row_tiles * job.column_tiles * job.groups * job.segments * job.splits;
  return launch(correlate_weight_tiles<KERNEL>, blocks, KERNEL::Multiply::kThreads,
                sizeof(typename KERNEL::Shared), stream, job);
}

template <class S>
struct Launch {
  static constexpr int kVector = 16 / sizeof(S);

  static cudaError_t pack_filter(const CorrelateJob& job, cudaStream_t stream) {
    int64_t count = job.segments * job.groups * job.phases() * job.terms * job.pitch;
    return launch(cuda::pack_filter<S>, grid_of(count), kThreads, 0, stream, job);
  }

  static cudaError_t reduce_splits(const WeightJob& job, cudaStream_t stream) {
    int64_t count = job.segments * job.groups * job.filters * job.terms() / job.components;
    return launch(cuda::reduce_splits<S>, grid_of(count), kThreads, 0, stream, job);
  }

  static cudaError_t correlate(const CorrelateJob& job, const Way& way, cudaStream_t stream) {
    return choose<Correlate, Along::depth, Along::lanes>(job, job.rows * job.components, way,
                                                         stream);
  }

  static cudaError_t correlate_without_zeros(const CorrelateJob& job, cudaStream_t stream) {
    int64_t blocks = std::min<int64_t>(grid_of(job.most_results()), 1024);  // mostly for nothing
    return launch(cuda::correlate_without_zeros<S>, blocks, kThreads, 0, stream, job);
  }

  static cudaError_t correlate_weight(const WeightJob& job, const Way& way, cudaStream_t stream) {
    return choose<CorrelateWeight, Along::lanes, Along::depth>(job, job.rows(), way, stream);
  }

  static cudaError_t depthwise(CorrelateJob job, const DirectWay& way, cudaStream_t stream) {
    return direct(way, [&]<int LANES, int VECTOR>() {
      job.row_tiles = quotient_up(job.groups * job.rows, LANES * VECTOR);
      job.position_tiles = quotient_up(job.most_strips(), kThreads / LANES);
      int64_t blocks = job.row_tiles * job.position_tiles * job.phases() * job.segments;
      return launch(cuda::depthwise<S, LANES, VECTOR>, blocks, kThreads, 0, stream, job);
    });
  }

  static cudaError_t depthwise_weight(WeightJob job, const DirectWay& way, cudaStream_t stream) {
    return direct(way, [&]<int LANES, int VECTOR>() {
      return launch_depthwise<LANES, VECTOR, false>(job, stream);
    });
  }

  static cudaError_t channel_sum(WeightJob job, const DirectWay& way, cudaStream_t stream) {
    return direct(way, [&]<int LANES, int VECTOR>() {
      return launch_depthwise<LANES, VECTOR, true>(job, stream);
    });
  }

  static cudaError_t fold_padding(const FoldJob& job, cudaStream_t stream) {
    int64_t count = job.samples * job.channels * job.components * job.h.size * job.w.size;
    return launch(cuda::fold_padding<S>, grid_of(count), kThreads, 0, stream, job);
  }

  static constexpr Kernels table{pack_filter,      correlate,     correlate_without_zeros,
                                 correlate_weight, reduce_splits, depthwise,
                                 depthwise_weight, channel_sum,   fold_padding};

 private:
  static constexpr int kThreads = kDirectThreads;
  static int64_t grid_of(int64_t count) {
    return std::min<int64_t>(quotient_up(count, kThreads), 1 << 16);
  }

  template <class LAUNCH>
  static cudaError_t direct(const DirectWay& way, const LAUNCH& launch) {
    if (way.vectors) return launch.template operator()<8, kVector>();
    return way.along_channels ? launch.template operator()<32, 1>()
                              : launch.template operator()<1, 1>();
  }

  template <int LANES, int VECTOR, bool ONES>
  static cudaError_t launch_depthwise(WeightJob job, cudaStream_t stream) {
    using Kernel = DepthwiseWeight<S, LANES, VECTOR, ONES>;
    job.row_tiles = quotient_up(job.groups * job.filters * job.components, LANES * VECTOR);
    job.column_tiles = quotient_up(job.h.taps * job.w.taps, Kernel::kTaps);
    int64_t blocks = job.row_tiles * job.column_tiles * job.segments * job.splits;
    return launch(cuda::depthwise_weight<S, LANES, VECTOR, ONES>, blocks, kThreads,
                  sizeof(typename Kernel::Shared), stream, job);
  }

  // Launches the kernel of a family that a way names. CHANNELS and POSITIONS are what its source's
  // channels and positions run along.
  template <template <class, int, Along, int> class KERNEL, Along CHANNELS, Along POSITIONS,
            class JOB>
  static cudaError_t choose(const JOB& job, int64_t rows, const Way& way, cudaStream_t stream) {
    auto with_tile = [&]<class BY, int ROWS>() {
      if (way.along_channels)
        return way.vectors ? launch_tiles<KERNEL<BY, ROWS, CHANNELS, kVector>>(job, stream)
                           : launch_tiles<KERNEL<BY, ROWS, CHANNELS, 1>>(job, stream);
      return way.vectors ? launch_tiles<KERNEL<BY, ROWS, POSITIONS, kVector>>(job, stream)
                         : launch_tiles<KERNEL<BY, ROWS, POSITIONS, 1>>(job, stream);
    };
    auto with_unit = [&]<class BY>() {
      return tile_rows(rows, way.tensor_cores) == 32
                 ? with_tile.template operator()<BY, 32>()
                 : with_tile.template operator()<BY, BY::kRows>();
    };
    if constexpr (sizeof(S) == 2) return with_unit.template operator()<ByTensorCores<S>>();
    if constexpr (sizeof(S) == 4)
      if (way.tensor_cores) return with_unit.template operator()<ByTensorCores<S>>();
    if constexpr (sizeof(S) > 2) return with_unit.template operator()<ByScalars<S>>();
  }
};

}  // namespace
}  // namespace fullconv::cuda
