// What a contraction works on, on any device: tensors as plain descriptions of memory, and a
// layer's numbers.
#pragma once

#include <cstdint>

#include "geometry.h"

namespace fullconv {

enum class Dtype { f32, f64, bf16, f16, c64, c128 };

// What ReLU and pooling take.
enum class Element { f32, f64, bf16, f16, i8, u8, i16, i32, i64 };
constexpr int64_t kElements = 9;

struct Array {  // a 4-D tensor, N C H W or K C R S (behind a segment axis); strides count elements
  void* data;
  int64_t size[4], stride[4];
  int64_t segment_stride;
};

struct Geometry {
  int64_t groups;
  Axis h, w;
  Algorithm algorithm;
  bool allow_tf32;  // on CUDA, products of float32 may be taken on tensor cores, rounded to TF32
};

// A tensor as scalars: strides count real scalars, also for complex tensors.
struct View {
  void* data;
  int64_t n, c, h, w;
};

// A filter as scalars; its rows become the result's channels.
struct FilterView {
  const void* data;
  int64_t segment, group, row, depth, r, s;  // strides
};

}  // namespace fullconv
