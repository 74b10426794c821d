// ReLU and pooling on the CPU: plain descriptions of a layer or its gradient, and a table of
// functions that do a task of one. As in engine.h, what is behind it is compiled once per
// instruction set, and the work is cut by shape alone.
#pragma once

#include <cstdint>

#include "../windows.h"
#include "engine.h"

namespace fullconv {

// result = x, or 0 where x is below 0 (relu); or result = grad, or 0 where the layer's output x is
// not above 0 (relu_grad). Lines of `length` elements along the last axis, and any number of axes
// before it.
struct ReluJob {
  const void *x, *grad;  // grad is null for relu
  void* result;
  int64_t lines, length;
  int64_t x_step, grad_step, result_step;                        // along a line
  int64_t axes;                                                  // those before the line's
  const int64_t *size, *x_stride, *grad_stride, *result_stride;  // [axes]
};

struct PoolJob {
  View source, result;
  View indices;  // max_indices, max_gather: as the result; max_scatter: as the source
  int64_t batch, channels;
  int64_t source_rows, source_columns;
  int64_t width;           // of the input: element (y, x) of a plane has index y·width + x
  Meetings h, w;           // result positions to source indices
  const AxisMap* columns;  // [column_maps] w once more, in parts whose sources lie evenly
  int64_t column_maps;
  const int64_t *extent_h, *extent_w;  // [outputs] an average is the sum over their product,
  int64_t divisor;                     // or over this, if it is not 0
  bool stray;                          // Pool::stray
};

struct PoolWay {
  bool (*fits)(const PoolJob&);
  int64_t (*tasks)(const PoolJob&);
  int64_t (*scratch)(const PoolJob&);
  void (*run)(const PoolJob&, int64_t task, void* scratch);
};

// The functions for one storage type. Of the ways to do a pooling the first that fits is taken, and
// the last fits every job; they are null where a type has no such layer: only max and, for 64 bits,
// average take integers.
constexpr int64_t kPoolWays = 3;

struct PoolEngine {
  int64_t (*relu_tasks)(const ReluJob&);
  void (*relu)(const ReluJob&, int64_t task);
  PoolWay pool[kPoolings][kPoolWays];
};

#if defined(__x86_64__)
extern const PoolEngine avx512_pool_engines[kElements];
#endif

}  // namespace fullconv
