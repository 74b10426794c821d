// The CPU engine's face: plain descriptions of a contraction, and a table of functions that do a
// task of one. Everything here is plain data, because what is behind it is compiled once per
// instruction set.
//
// All three contractions are matrix products over packed blocks (implicit GEMM):
//
//     correlate, full_convolve   rows or columns of the filter  x  patches of the source
//     correlate_weight           patches of the input           x  columns of the output gradient
//
// A complex tensor is a real one with twice the channels, the imaginary parts behind the real ones
// (`components` = 2): a complex product is the real product with [[re, -im], [im, re]].
//
// The work is cut into tasks by shape alone, and a task adds in an order that depends on neither
// the number of threads nor the other samples: results are the same bit for bit for any of them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <type_traits>

#include "../arrays.h"

namespace fullconv {

// result[n, g·rows + m, position] = bias[...] + Σ_{c,tap} filter[g, m, c, tap] · source[n, g·depth
// + c, ...] for the positions and taps of one pair of axis maps, in each of `segments` parts of the
// batch.
struct CorrelateJob {
  View source, result;
  const void* filter;  // packed, as its way says
  const void* bias;    // [groups·rows], or null
  int64_t bias_stride;
  int64_t batch;                                      // samples a segment
  int64_t segments, groups, depth, rows, components;  // depth and rows of one group
  bool rows_along_vectors;  // else positions are: the micro-kernel's two orientations
  Algorithm algorithm;
  FilterView unpacked;
  bool* special;  // set where packing meets a NaN or Inf in the filter
  bool* spread;   // [segments·batch] set by a way whose result for a sample has a NaN or Inf that
                  // may belong elsewhere
  bool exact;     // not by a way that may set it
  AxisMap h, w;
  const AxisMap* columns;  // [column_maps] all whose positions make up a row: channels.inl's w
  int64_t column_maps;
};

// The same as full_convolve's jobs, seen from the output gradient: result[n, c, ...] = bias[c] +
// the sum of filter[k, c, r, s] · grad[n, k, i, j] over all that meet there. The maps are
// forward's.
struct ScatterJob {
  View grad, result;
  const void* filter;  // packed, as its way says
  const void* bias;    // [groups·channels], or null
  int64_t bias_stride;
  int64_t batch;                                            // samples a segment
  int64_t segments, groups, filters, channels, components;  // filters and channels of one group
  AxisMap h, w;
};

// filter[k, c, r, s] = Σ_{n,i,j} grad[n, k, i, j] · input[n, c, ...], for each of `segments` parts
// of the batch.
struct WeightJob {
  View input, grad;
  void* result;
  int64_t segment, k, c, r, s;  // strides of the result, in real scalars
  int64_t batch;                // samples a segment
  int64_t segments, groups, channels, filters, components;  // channels and filters of one group
  int64_t splits;                                           // parts of the sum over positions
  void* partial;  // the parts' results; unused for one part of a real tensor
  Algorithm algorithm;
  bool* spread;  // [segments] as CorrelateJob's
  bool exact;    // not by a way that may set it
  AxisMap h, w;
};

struct ChannelSumJob {
  View grad;
  void* result;
  int64_t batch, channels, height, width, components;
};

// The cost of a job (cost.inl) that a way cannot do.
constexpr double kNever = __builtin_inf();
// What a way's cost is multiplied by where the algorithm is asked for: less than all others.
constexpr double kForced = 1e-12;

// A way to do jobs with a filter: what one costs, how it wants the filter, its tasks.
template <class Job>
struct FilterWay {
  const char* name;
  double (*cost)(const Job&);
  int64_t (*packed_filter_size)(const Job&);
  int64_t (*pack_filter_tasks)(const Job&);
  void (*pack_filter)(const Job&, const FilterView&, void* packed, int64_t task);
  int64_t (*tasks)(const Job&);
  int64_t (*scratch)(const Job&);
  void (*run)(const Job&, int64_t task, void* scratch);
};
using CorrelateWay = FilterWay<CorrelateJob>;
using ScatterWay = FilterWay<ScatterJob>;  // full_convolve's scatter form

// A way to do correlate_weight's jobs: its tasks make the parts of the sum, reduce adds them.
struct WeightWay {
  const char* name;
  double (*cost)(const WeightJob&);
  int64_t (*splits)(const WeightJob&);
  int64_t (*partial_size)(const WeightJob&);
  int64_t (*tasks)(const WeightJob&);
  int64_t (*scratch)(const WeightJob&);
  void (*run)(const WeightJob&, int64_t task, void* scratch);
  int64_t (*reduce_tasks)(const WeightJob&);
  void (*reduce)(const WeightJob&, int64_t task);
};

// The functions for one storage type (float, double, bfloat16, half). Sizes are in bytes; the last
// of the ways can do every job.
struct Engine {
  CorrelateWay channels;       // does `columns`, all maps of a row, at once
  CorrelateWay correlate[17];  // as many as there are, then none
  ScatterWay scatter;
  WeightWay weight[14];  // the same
  int64_t (*channel_sum_tasks)(const ChannelSumJob&);
  void (*channel_sum)(const ChannelSumJob&, int64_t task);
};

// One instruction set's engines.
struct InstructionSet {
  const char* name;
  bool (*supported)();
  const Engine *f32, *f64, *bf16, *f16;
  const struct PoolEngine* pooling;  // pooling.h; a table of all its types
};

extern const InstructionSet baseline_instruction_set;
#if defined(__x86_64__)
extern const InstructionSet avx2_instruction_set, avx512_instruction_set,
    avx512_bf16_instruction_set;
extern const Engine avx512_f32_engine, avx512_f64_engine, avx512_f16_engine;
#if defined(__linux__)
extern const InstructionSet amx_instruction_set;
#endif
#endif

// The best instruction set that this processor has, or the one that TORCH_FULLCONV_ISA names.
const InstructionSet& instruction_set();

}  // namespace fullconv
