// correlate_weight as a matrix product:
//
//     result[filter][term] = Σ_position grad[filter][position] · input[position][term]
//
// The positions of a segment are split into runs of whole tiles, by shape alone. Blocks write the
// runs' sums, [splits][segments][groups][rows][terms], and reduce_splits adds these in order: no
// atomics, so results are the same in every run. A segment of one sample gives its own gradient.
#pragma once

#include "multiply.cuh"

namespace fullconv::cuda {

struct WeightJob {
  View input, grad;
  void* partial;  // in the compute type
  void* result;
  int64_t segment, k, c, r, s;  // strides of the result, in real scalars
  int64_t batch;                // samples a segment
  int64_t segments, groups, channels, filters, components;  // channels and filters of one group
  int64_t splits, split_positions;                          // in whole tiles
  int64_t row_tiles, column_tiles;
  Divider by_channels, by_filters;
  Line h, w;            // the input's
  Line grad_h, grad_w;  // the gradient's own positions

  FULLCONV_EVERYWHERE int64_t rows() const { return components * filters; }
  FULLCONV_EVERYWHERE int64_t terms() const { return h.taps * w.taps * components * channels; }
  int64_t positions() const { return batch * h.positions * w.positions; }
};

template <class BY, int ROWS, Along ALONG, int VECTOR>
struct CorrelateWeight {
  using S = typename BY::S;
  using T = typename Compute<S>::type;
  static constexpr int kColumns = BY::kColumns;
  using A = Tile<S, ROWS, BY::kDepth, ALONG, VECTOR>;
  using B = Tile<S, kColumns, BY::kDepth, ALONG, VECTOR>;
  using Multiply = typename BY::template Multiply<A, B>;
  using Loop = Pipeline<Multiply, BY::kStages>;
  using Shared = typename Loop::Shared;

  template <bool MIRRORS>
  struct PatchesOfTerms {
    Patches<S> patches;
    int64_t segment, group, term;
    Position first;
    using From = Source<S, MIRRORS>;
    __device__ From source() const { return patches.template source<MIRRORS>(segment, group); }
    __device__ Place lane(int i) const { return patches.term(term + i); }
    __device__ Place depth(uint32_t i) const { return patches.position(i, first); }
  };

  static __device__ __forceinline__ void run(const WeightJob& job) {
    Digits digits{static_cast<int>(blockIdx.x)};
    int row_tile = digits.next(job.row_tiles), column_tile = digits.next(job.column_tiles);
    int part = digits.rest;  // of the partial sums
    int group = digits.next(job.groups), segment = digits.next(job.segments), split = digits.rest;
    int64_t row = int64_t{row_tile} * ROWS, column = int64_t{column_tile} * kColumns;
    int64_t position = split * job.split_positions;

    Patches<S> grads{job.grad, job.batch, job.components, job.by_filters, job.grad_h, job.grad_w};
    Patches<S> inputs{job.input, job.batch, job.components, job.by_channels, job.h, job.w};
    Position first = inputs.position_of(position);
    PatchesOfTerms<false> a{grads, segment, group, row, first};
    PatchesOfTerms<true> b{inputs, segment, group, column, first};
    int64_t positions = inputs.positions() - position;
    if (positions > job.split_positions) positions = job.split_positions;
    Multiply multiply;
    Loop::run(gpu::dynamic_shared<Shared>(), a, b, (positions + BY::kDepth - 1) / BY::kDepth,
              multiply);

    int64_t rows = job.rows(), terms = job.terms();
    T* to = static_cast<T*>(job.partial) + int64_t{part} * rows * terms;
#pragma unroll
    for (int i = 0; i < Multiply::kRows; ++i)
#pragma unroll
      for (int j = 0; j < Multiply::kColumns; ++j) {
        int64_t m = row + Multiply::row(i), n = column + Multiply::column(j);
        if (m < rows && n < terms) to[m * terms + n] = multiply.value(i, j);
      }
  }
};

template <class KERNEL>
__global__ void __launch_bounds__(KERNEL::Loop::kThreads, KERNEL::Loop::kBlocks)
    correlate_weight_tiles(const __grid_constant__ WeightJob job) {
  KERNEL::run(job);
}

// One element of the result a thread. Complex: (a + ib)(u + iv) = (au - bv) + i(av + bu) of the
// gradient's u and v, which are rows, and the input's a and b.
template <class S>
__global__ void __launch_bounds__(256) reduce_splits(const __grid_constant__ WeightJob job) {
  using T = typename Compute<S>::type;
  int64_t terms = job.terms(), size = job.rows() * terms;
  int64_t parts = job.segments * job.groups;
  auto sum = [&](int64_t part, int64_t row, int64_t term) {
    const T* from = static_cast<const T*>(job.partial) + part * size + row * terms + term;
    double total = 0;  // in float its rounding would add to the runs'
    for (int64_t split = 0; split < job.splits; ++split) total += from[split * parts * size];
    return static_cast<T>(total);
  };
  int64_t taps = job.h.taps * job.w.taps;
  int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
       i < parts * job.filters * taps * job.channels; i += step) {
    Digits digits{i};
    int64_t channel = digits.next(job.by_channels), tap = digits.next(taps);
    int64_t filter = digits.next(job.filters), part = digits.rest;
    int64_t term = tap * job.components * job.channels + channel;
    S* to = static_cast<S*>(job.result) + part / job.groups * job.segment +
            (part % job.groups * job.filters + filter) * job.k + channel * job.c +
            tap / job.w.taps * job.r + tap % job.w.taps * job.s;
    T real = sum(part, filter, term);
    if (job.components == 2) {
      int64_t v = filter + job.filters, b = term + job.channels;
      narrow(sum(part, v, term) + sum(part, filter, b), to[1]);
      real -= sum(part, v, b);
    }
    narrow(real, *to);
  }
}

}  // namespace fullconv::cuda
