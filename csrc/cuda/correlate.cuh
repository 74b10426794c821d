// correlate as a matrix product that no matrix is made for (implicit GEMM):
//
//     result[row][position] = bias[row] + Σ_term filter[row][term] · source[position][term]
//
// A position is an output of some sample, a term a channel and a tap. Blocks take tiles of rows and
// positions of one group. full_convolve runs here too, on the rotated filter: each phase of its
// stride is a correlation of its own, and a block's number says whose it is.
//
// The filter comes packed, [segments][groups][phases][depth][pitch], with zeros up to whole tiles:
// whatever its strides, its rows are 16-byte aligned, and signs make complex products of real ones.
#pragma once

#include "multiply.cuh"

namespace fullconv::cuda {

constexpr int kMostPhases = 8;  // of an axis, in one launch

struct Phases {
  int count;
  Line axis[kMostPhases];

  FULLCONV_EVERYWHERE int64_t most_positions() const {
    int64_t most = 0;
    for (int i = 0; i < count; ++i)
      if (axis[i].positions > most) most = axis[i].positions;
    return most;
  }
  int64_t most_taps() const {
    int64_t most = 0;
    for (int i = 0; i < count; ++i) most = std::max(most, axis[i].taps);
    return most;
  }
};

struct CorrelateJob {
  View source, result;
  FilterView unpacked;
  void* filter;
  const void* bias;  // [groups·rows], or null
  int64_t bias_stride;
  int64_t batch;                                      // samples a segment
  int64_t segments, groups, depth, rows, components;  // depth and rows of one group
  Divider by_depth;
  bool wide_result;      // result is in the compute type
  bool zeros_count;      // the padding's zeros are factors: NaN times one is NaN
  int* special;          // set if the packed filter has a NaN or Inf and such zeros do not count
  int64_t terms, pitch;  // of a packed filter, in whole tiles
  int64_t row_tiles, position_tiles;
  Phases h, w;

  FULLCONV_EVERYWHERE int64_t phases() const { return int64_t{h.count} * w.count; }
  FULLCONV_EVERYWHERE int64_t most_positions() const {
    return batch * h.most_positions() * w.most_positions();
  }
  int64_t most_strips() const {
    return batch * ((h.most_positions() + kStrip - 1) / kStrip) * w.most_positions();
  }
  // Elements of the result, if all phases had as many positions as the largest.
  FULLCONV_EVERYWHERE int64_t most_results() const {
    return segments * groups * phases() * rows * components * most_positions();
  }
};

// Reads the filter's element of a row and a term, in the real product that stands for a complex
// one.
template <class S>
__device__ S filter_element(const CorrelateJob& job, int64_t segment, int64_t group, const Line& h,
                            const Line& w, int64_t row, int64_t term) {
  Digits digits{term};
  int64_t depth = digits.next(job.by_depth), component = digits.next(job.components);
  int64_t s = w.tap + digits.next(w.by_taps) * w.tap_stride;
  if (row >= job.rows * job.components || digits.rest >= h.taps) return S(0.f);
  int64_t r = h.tap + digits.rest * h.tap_stride;
  const FilterView& f = job.unpacked;
  bool imaginary = row / job.rows != component;
  const S* at = static_cast<const S*>(f.data) + segment * f.segment + group * f.group +
                row % job.rows * f.row + depth * f.depth + r * f.r + s * f.s + imaginary;
  if constexpr (sizeof(S) > 2) return imaginary && row < job.rows ? -*at : *at;
  return *at;
}

template <class S>
__global__ void __launch_bounds__(256) pack_filter(const __grid_constant__ CorrelateJob job) {
  int64_t count = job.segments * job.groups * job.phases() * job.terms * job.pitch;
  int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    Digits digits{i};
    int64_t row = digits.next(job.pitch), term = digits.next(job.terms);
    int64_t w = digits.next(job.w.count), h = digits.next(job.h.count);
    int64_t group = digits.next(job.groups), segment = digits.rest;
    S element = filter_element<S>(job, segment, group, job.h.axis[h], job.w.axis[w], row, term);
    static_cast<S*>(job.filter)[i] = element;
    if (job.special && !isfinite(widen(element))) atomicExch(job.special, 1);
  }
}

// Where a position's result is, less its channel; -1 for none.
template <class S>
__device__ int64_t result_offset(const CorrelateJob& job, const Patches<S>& patches,
                                 int64_t segment, int64_t position) {
  if (position >= patches.positions()) return -1;
  const Line &h = patches.h, &w = patches.w;
  Digits digits{position};
  int64_t x = w.position + digits.next(w.by_positions) * w.position_step;
  int64_t y = h.position + digits.next(h.by_positions) * h.position_step;
  int64_t sample = segment * job.batch + digits.rest;
  return sample * job.result.n + y * job.result.h + x * job.result.w;
}

template <class S>
__device__ __forceinline__ void store_result(const CorrelateJob& job, int64_t offset,
                                             typename Compute<S>::type value) {
  if (job.wide_result)
    static_cast<typename Compute<S>::type*>(job.result.data)[offset] = value;
  else
    narrow(value, static_cast<S*>(job.result.data)[offset]);
}

template <class BY, int ROWS, Along ALONG, int VECTOR>
struct Correlate {
  using S = typename BY::S;
  using T = typename Compute<S>::type;
  static constexpr int kColumns = BY::kColumns;
  using A = Tile<S, ROWS, BY::kDepth, Along::lanes, 16 / sizeof(S)>;
  using B = Tile<S, kColumns, BY::kDepth, ALONG, VECTOR>;
  using Multiply = typename BY::template Multiply<A, B>;
  using Loop = Pipeline<Multiply, BY::kStages>;

  struct Shared {
    typename Loop::Shared loop;
    int64_t results[kColumns];  // where the positions' results are; -1 for none
  };

  struct PackedFilter {
    const S* data;
    int64_t pitch, row;
    using From = PackedFilter;
    __device__ From source() const { return *this; }
    __device__ Shown<S> find(const Place& a, const Place& b) const {
      return {data + (a.offset + b.offset), true};
    }
    __device__ Place lane(int i) const { return {row + i, 0, 0}; }
    __device__ Place depth(uint32_t term) const { return {term * pitch, 0, 0}; }
  };

  struct PatchesOfPositions {
    Patches<S> patches;
    int64_t segment, group, position;
    using From = Source<S, true>;
    __device__ From source() const { return patches.source(segment, group); }
    __device__ Place lane(int i) const { return patches.position(position + i); }
    __device__ Place depth(uint32_t term) const { return patches.term(term); }
  };

  static __device__ __forceinline__ void run(const CorrelateJob& job) {
    Digits digits{static_cast<int>(blockIdx.x)};
    int row_tile = digits.next(job.row_tiles), position_tile = digits.next(job.position_tiles);
    int phase_w = digits.next(job.w.count), phase_h = digits.next(job.h.count);
    int group = digits.next(job.groups), segment = digits.rest;
    int64_t row = int64_t{row_tile} * ROWS, position = int64_t{position_tile} * kColumns;
    const Line &h = job.h.axis[phase_h], &w = job.w.axis[phase_w];
    Patches<S> patches{job.source, job.batch, job.components, job.by_depth, h, w};
    if (position >= patches.positions()) return;

    auto& shared = gpu::dynamic_shared<Shared>();
    for (int j = threadIdx.x; j < kColumns; j += Multiply::kThreads)
      shared.results[j] = result_offset(job, patches, segment, position + j);
    int64_t packed = ((segment * job.groups + group) * job.h.count + phase_h) * job.w.count;
    packed = (packed + phase_w) * job.terms * job.pitch;
    PackedFilter a{static_cast<const S*>(job.filter) + packed, job.pitch, row};
    PatchesOfPositions b{patches, segment, group, position};
    Multiply multiply;
    int chunks = static_cast<int>((patches.terms() + BY::kDepth - 1) / BY::kDepth);
    Loop::run(shared.loop, a, b, chunks, multiply);
    store(job, group, row, shared.results, multiply);
  }

  static __device__ __forceinline__ void store(const CorrelateJob& job, int64_t group,
                                               int64_t first, const int64_t* results,
                                               const Multiply& multiply) {
#pragma unroll
    for (int i = 0; i < Multiply::kRows; ++i) {
      int64_t row = first + Multiply::row(i);
      if (row >= job.rows * job.components) continue;
      int64_t channel = group * job.rows + row % job.rows, component = row / job.rows;
      T bias = job.bias
                   ? widen(static_cast<const S*>(job.bias)[channel * job.bias_stride + component])
                   : T(0);
#pragma unroll
      for (int j = 0; j < Multiply::kColumns; ++j) {
        int64_t result = results[Multiply::column(j)];
        if (result < 0) continue;
        store_result<S>(job, result + channel * job.result.c + component,
                        multiply.value(i, j) + bias);
      }
    }
  }
};

// After a filter with a NaN or Inf, whose products with zeros around the source do not belong to
// the result: all of it once more, without them. A thread takes single elements, as this is rare.
template <class S>
__global__ void __launch_bounds__(256)
    correlate_without_zeros(const __grid_constant__ CorrelateJob job) {
  if (!*job.special) return;
  int64_t rows = job.rows * job.components;
  int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < job.most_results();
       i += step) {
    Digits digits{i};
    int64_t row = digits.next(rows), group = digits.next(job.groups);
    int64_t phase_w = digits.next(job.w.count), phase_h = digits.next(job.h.count);
    int64_t segment = digits.next(job.segments), position = digits.rest;
    const Line &h = job.h.axis[phase_h], &w = job.w.axis[phase_w];
    Patches<S> patches{job.source, job.batch, job.components, job.by_depth, h, w};
    int64_t offset = result_offset(job, patches, segment, position);
    if (offset < 0) continue;

    auto source = patches.source(segment, group);
    Place place = patches.position(position);
    int64_t channel = group * job.rows + row % job.rows, component = row / job.rows;
    double sum = 0;
    if (job.bias)
      sum = widen(static_cast<const S*>(job.bias)[channel * job.bias_stride + component]);
    for (int64_t term = 0; term < patches.terms(); ++term) {
      Shown<S> shown = source.find(place, patches.term(term));
      if (!shown.any) continue;
      double factor = widen(filter_element<S>(job, segment, group, h, w, row, term));
      sum += factor * widen(*shown.at);
    }
    store_result<S>(job, offset + channel * job.result.c + component,
                    static_cast<typename Compute<S>::type>(sum));
  }
}

template <class KERNEL>
__global__ void __launch_bounds__(KERNEL::Loop::kThreads, KERNEL::Loop::kBlocks)
    correlate_tiles(const __grid_constant__ CorrelateJob job) {
  KERNEL::run(job);
}

}  // namespace fullconv::cuda
